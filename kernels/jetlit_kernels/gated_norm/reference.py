"""Plain-PyTorch gated RMSNorm."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype


def gated_rms_norm(o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute `jetlit_kernels.gated_rms_norm`, differentiable by autograd."""
    dtype = compute_dtype(o)
    x = o.to(dtype)
    normalized = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (normalized * weight.to(dtype) * F.silu(gate.to(dtype))).to(o.dtype)
