"""Plain-PyTorch rotation."""

import torch

from jetlit_kernels.dtypes import compute_dtype


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Compute `jetlit_kernels.rotate`, differentiable by autograd."""
    dtype = compute_dtype(x)
    cos, sin = cos.to(dtype)[:, :, None], sin.to(dtype)[:, :, None]
    first, second = x.to(dtype).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
