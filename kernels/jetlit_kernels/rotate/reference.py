"""Plain-PyTorch rotation."""

import math

import torch

from jetlit_kernels.dtypes import compute_dtype


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Compute `jetlit_kernels.rotate`, differentiable by autograd."""
    dtype = compute_dtype(x)
    cos, sin = cos.to(dtype)[:, :, None], sin.to(dtype)[:, :, None]
    first, second = x.to(dtype).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rotary_angles(
    positions: torch.Tensor, size: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `jetlit_kernels.rotary_angles`."""
    half = size // 2
    exponent = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    angle = positions[..., None] * torch.exp(-math.log(theta) * exponent)
    return angle.cos().to(dtype), angle.sin().to(dtype)
