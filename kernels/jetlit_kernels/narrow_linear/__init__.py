"""A linear layer for a few rows, with the norm, activation and residual around it."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.narrow_linear import reference

MAX_ROWS = 16  # one tile of the tensor cores; with more rows the library's product is as good


def narrow_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    silu_input: bool = False,
    swiglu: bool = False,
    add_to: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Add f(p(x) · weightᵀ + bias) to a residual; p is an RMSNorm or SiLU, f is SwiGLU, and each part is optional.

    A decode step of a few sequences is bound by reading weights. The Triton kernel reads them once, in one launch for
    all of this, and sums in a fixed order: equal inputs give equal results, bit by bit. No gradient.

    Args:
        x: [B, K]; rows may be strided, a row must be contiguous.
        weight: [N, K]; with `swiglu` the gate's rows come first, then as many of the other factor.
        bias: [N].
        norm_weight: [K]; apply RMSNorm to x first.
        norm_eps: epsilon of that norm.
        silu_input: apply SiLU to x first.
        swiglu: return SiLU of the first half of the outputs times the second half.
        add_to: a tensor of the result's shape; the result is added to it in place, and it is returned.
        backend: "auto" (Triton on CUDA for at most `MAX_ROWS` rows, plain PyTorch elsewhere and for a norm in float16,
            whose range the inputs may exceed), "triton" or "torch".

    Returns:
        [B, N], with `swiglu` [B, N / 2], in the dtype of x.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    rows, width = x.shape
    outputs = weight.shape[0] // 2 if swiglu else weight.shape[0]
    fits = weight.ndim == 2 and weight.shape[1] == width and not (swiglu and weight.shape[0] % 2)
    fits &= bias is None or bias.shape == weight.shape[:1]
    fits &= norm_weight is None or norm_weight.shape == (width,)
    fits &= add_to is None or (add_to.shape == (rows, outputs) and add_to.is_contiguous())
    if not fits or (norm_weight is not None and silu_input):
        raise ValueError(
            "narrow_linear needs x [B, K], weight [N, K], bias [N], norm_weight [K] or silu_input, and a contiguous "
            f"add_to of the result's shape; got x {tuple(x.shape)}, weight {tuple(weight.shape)}, swiglu {swiglu}, "
            f"bias {bias if bias is None else tuple(bias.shape)}, add_to "
            f"{add_to if add_to is None else tuple(add_to.shape)}."
        )
    if backend == "auto" and (rows > MAX_ROWS or (norm_weight is not None and x.dtype == torch.float16)):
        backend = "torch"
    if resolve_backend(backend, x) == "torch":
        return reference.narrow_linear(x, weight, bias, norm_weight, norm_eps, silu_input, swiglu, add_to)
    if rows > MAX_ROWS:
        raise ValueError(f'narrow_linear in Triton takes at most {MAX_ROWS} rows, not {rows}: pass backend="torch".')
    from jetlit_kernels.narrow_linear import kernels

    return kernels.forward(x, weight, bias, norm_weight, norm_eps, silu_input, swiglu, add_to)
