"""Plain-PyTorch gated RMSNorm."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.gated_norm.arguments import Arguments


def gated_rms_norm(a: Arguments) -> torch.Tensor:
    """Compute `jetlit_kernels.gated_rms_norm`, differentiable by autograd."""
    dtype = compute_dtype(a.o)
    x = a.o.to(dtype)
    if a.skip is not None and a.skip_weight is not None:
        x = x + a.skip_weight.to(dtype)[:, None] * a.skip.to(dtype)
    gate = None if a.gate is None else F.silu(a.gate.to(dtype))
    if gate is not None and not a.norm_before_gate:
        x = x * gate
    out = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + a.eps) * a.weight.to(dtype)
    if gate is not None and a.norm_before_gate:
        out = out * gate
    return out.to(a.o.dtype)
