"""SiLU of rows any distance apart, such as a slice of a merged projection."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.silu import reference
from jetlit_kernels.silu.autograd import run


def silu(x: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """Return x · sigmoid(x), computed in float32 (float64 stays float64) and rounded once; differentiable once.

    Args:
        x: [..., N]; rows may be any distance apart.
        backend: "auto" (Triton on CUDA; plain PyTorch elsewhere and under a compiler, which fuses it just as well),
            "triton" or "torch".

    Returns:
        [..., N], contiguous, in the dtype of `x`; so is the gradient.

    Raises:
        ValueError: the backend cannot run here.
    """
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    if resolve_backend(backend, x) == "triton":
        return run(x)
    return reference.silu(x)
