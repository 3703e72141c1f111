"""Plain-PyTorch SiLU(gate) · up."""

import torch
import torch.nn.functional as F


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Reference of `jetlit_kernels.silu_mul`; same arguments and result."""
    return F.silu(gate) * up
