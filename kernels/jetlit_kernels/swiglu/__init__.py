"""SwiGLU's product: SiLU of a gate times the other factor, in one pass."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.swiglu import reference


def silu_mul(gate: torch.Tensor, up: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """Return SiLU(gate) · up, computed in float32 and rounded once by the Triton kernel, which has no gradient.

    Args:
        gate: [..., N]; gate and up may be the halves of one merged projection.
        up: [..., N].
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [..., N], contiguous.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    if gate.shape != up.shape:
        raise ValueError(f"silu_mul needs two tensors of one shape; got {tuple(gate.shape)} and {tuple(up.shape)}.")
    if resolve_backend(backend, gate) == "triton":
        from jetlit_kernels.swiglu import kernels

        return kernels.forward(gate, up)
    return reference.silu_mul(gate, up)
