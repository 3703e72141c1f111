"""Plain-PyTorch SiLU."""

import torch
import torch.nn.functional as F


def silu(x: torch.Tensor) -> torch.Tensor:
    """Compute `jetlit_kernels.silu`, differentiable by autograd."""
    return F.silu(x).contiguous()
