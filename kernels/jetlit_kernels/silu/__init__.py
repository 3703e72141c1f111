"""SiLU of rows that need not lie one after the other: of a slice of a merged projection."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from jetlit_kernels.dispatch import resolve_backend


def silu(x: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """x · sigmoid(x), computed in float32 (float64 stays float64) and rounded once; differentiable once.

    Args:
        x: [..., N]; rows may be any distance apart.
        backend: "auto" (on CUDA one Triton kernel in each direction; plain PyTorch elsewhere and for the compiler,
            which makes as much of it), "triton" or "torch".

    Returns:
        [..., N], contiguous, in the type of `x`; so is the gradient.

    Raises:
        ValueError: the backend cannot run here.
    """
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    if resolve_backend(backend, x) == "triton":
        return _SiLU.apply(x)
    return F.silu(x).contiguous()


class _SiLU(torch.autograd.Function):
    """SiLU by the Triton kernels."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        from jetlit_kernels.silu import kernels as kernels

        ctx.save_for_backward(x)
        return kernels.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor) -> torch.Tensor:
        from jetlit_kernels.silu import kernels as kernels

        return kernels.backward(d_out, *ctx.saved_tensors)
