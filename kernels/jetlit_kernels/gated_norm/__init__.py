"""RMSNorm of a head's output times SiLU of a gate (checkpoint format, JetBlock step 5)."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.gated_norm import reference
from jetlit_kernels.gated_norm.autograd import run


def gated_rms_norm(
    o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, *, backend: str = "auto"
) -> torch.Tensor:
    """Return RMSNorm(o) · weight · SiLU(gate) over the last dimension, computed in float32 and cast once.

    Args:
        o: [..., V].
        gate: [..., V], the same shape.
        weight: [V].
        eps: added to the mean square.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [..., V] in the dtype of `o`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    if o.shape != gate.shape or weight.shape != o.shape[-1:]:
        raise ValueError(
            f"gated_rms_norm needs o and gate of one shape [..., V] and weight [V]; got {tuple(o.shape)}, "
            f"{tuple(gate.shape)} and {tuple(weight.shape)}."
        )
    if resolve_backend(backend, o) == "triton":
        return run(o, gate, weight, eps)
    return reference.gated_rms_norm(o, gate, weight, eps)
