"""Plain-PyTorch SiLU(gate) · up."""

import torch
import torch.nn.functional as F


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Compute `jetlit_kernels.silu_mul`."""
    return F.silu(gate) * up
