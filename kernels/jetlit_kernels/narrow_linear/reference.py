"""Plain-PyTorch product with what stands before and after it in a decoder layer."""

import torch
import torch.nn.functional as F

from jetlit_kernels.swiglu import silu_mul


def narrow_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_eps: float,
    silu_input: bool,
    swiglu: bool,
    add_to: torch.Tensor | None,
) -> torch.Tensor:
    """Compute `jetlit_kernels.narrow_linear` for any number of rows."""
    if norm_weight is not None:
        x = F.rms_norm(x, norm_weight.shape, norm_weight, norm_eps)
    if silu_input:
        x = F.silu(x)
    if add_to is not None and not swiglu:
        add_to.addmm_(x, weight.T)
        return add_to if bias is None else add_to.add_(bias)
    out = F.linear(x, weight, bias)
    if swiglu:
        out = silu_mul(*out.chunk(2, -1))
    return out if add_to is None else add_to.add_(out)
