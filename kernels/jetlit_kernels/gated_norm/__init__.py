"""RMSNorm of a head's output times SiLU of a gate (checkpoint format, JetBlock step 5)."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.gated_norm import reference
from jetlit_kernels.operators import differentiable, without_gradient


def gated_rms_norm(
    o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, *, backend: str = "auto"
) -> torch.Tensor:
    """RMSNorm of `o` over its last dimension, times `weight`, times SiLU(gate); computed in float32, cast once.

    Args:
        o: [..., V].
        gate: [..., V], the same shape.
        weight: [V].
        eps: added to the mean square.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [..., V] in the type of `o`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    if o.shape != gate.shape or weight.shape != o.shape[-1:]:
        raise ValueError(
            f"gated_rms_norm needs o and gate of one shape [..., V] and weight [V]; got {tuple(o.shape)}, "
            f"{tuple(gate.shape)} and {tuple(weight.shape)}."
        )
    if resolve_backend(backend, o) == "triton":
        return _call(o, gate, weight, eps)
    return reference.gated_rms_norm(o, gate, weight, eps)


def _forward(o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    from jetlit_kernels.gated_norm import kernels as kernels

    return kernels.forward(o, gate, weight, eps)


_operator = torch.library.custom_op("jetlit_kernels::gated_rms_norm", _forward, mutates_args=())


@_operator.register_fake
def _(o, gate, weight, eps):
    return o.new_empty(o.shape)


def _gradients(
    d_out: torch.Tensor, o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from jetlit_kernels.gated_norm import kernels as kernels

    return kernels.backward(d_out, o, gate, weight, eps)


_backward_operator = torch.library.custom_op("jetlit_kernels::gated_rms_norm_backward", _gradients, mutates_args=())


@_backward_operator.register_fake
def _(d_out, o, gate, weight, eps):
    return o.new_empty(o.shape), gate.new_empty(gate.shape), torch.empty_like(weight)


def _save_inputs(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, d_out):
    return *_call_backward(d_out, *ctx.saved_tensors, ctx.eps), None


_call_backward = without_gradient(_backward_operator, _gradients)
_call = differentiable(_operator, _forward, _save_inputs, _backward)
