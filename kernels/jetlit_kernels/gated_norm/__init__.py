"""RMSNorm of a head's output, times SiLU of a gate or of the gated output (JetBlock, step 5; Mamba2)."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.gated_norm import reference
from jetlit_kernels.gated_norm.arguments import Arguments
from jetlit_kernels.gated_norm.autograd import run


def gated_rms_norm(
    o: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float = 1e-5,
    *,
    norm_before_gate: bool = True,
    skip: torch.Tensor | None = None,
    skip_weight: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Return RMSNorm(x) · weight · SiLU(gate), or RMSNorm(x · SiLU(gate)) · weight, over the last dimension.

    x is o + skip_weight · skip, or o. All is computed in float32 and cast once.

    Args:
        o: [..., V], or [..., H, V] with a skip.
        gate: [..., V], the shape of `o`; None for no gate.
        weight: [V].
        eps: added to the mean square.
        norm_before_gate: normalize first and gate the result (False: the other way round, as Mamba2 does).
        skip: the shape of `o`, or None.
        skip_weight: [H], the skip's weight in each head.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [..., V] in the dtype of `o`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    for tensor in (gate, skip):
        if (tensor is not None and o.shape != tensor.shape) or weight.shape != o.shape[-1:]:
            raise ValueError(
                f"gated_rms_norm needs o, gate and skip of one shape [..., V] and weight [V]; got {tuple(o.shape)}, "
                f"{None if tensor is None else tuple(tensor.shape)} and {tuple(weight.shape)}."
            )
    if (skip is None) != (skip_weight is None) or (skip_weight is not None and skip_weight.shape != o.shape[-2:-1]):
        raise ValueError("gated_rms_norm needs both skip [..., H, V] and skip_weight [H], or neither.")
    a = Arguments(o, gate, weight, skip, skip_weight, eps, norm_before_gate)
    return run(*a) if resolve_backend(backend, o) == "triton" else reference.gated_rms_norm(a)
