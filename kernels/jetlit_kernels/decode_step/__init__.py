"""One decode step of a JetBlock, between its projections, in one launch."""

from typing import Any

import torch

from jetlit_kernels.decode_step import reference
from jetlit_kernels.decode_step.arguments import Arguments
from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.operators import define


def jet_decode_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gate: torch.Tensor,
    beta_logits: torch.Tensor,
    a: torch.Tensor,
    conv_kernels: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    conv_state: torch.Tensor,
    recurrent_state: torch.Tensor,
    *,
    scale: float | None = None,
    norm_eps: float = 1e-5,
    backend: str = "auto",
) -> torch.Tensor:
    """Run steps 1 to 5 of a JetBlock (checkpoint format) for one token per sequence, without the matrix products.

    These are SiLU and L2 norm of q and k, the convolution with SiLU, the gates, the state update, the read-out, and the
    gated RMSNorm. Both states are updated in place. Nothing but the result is allocated and nothing synchronizes, so it
    is safe inside a CUDA graph. It has no gradient.

    Args:
        q: [B, H, K], the output of `q_proj` (before SiLU). This and the next six may be strided views of one merged
            projection: only their last dimension (for `conv_kernels` the last two) must be contiguous.
        k: [B, H, K], the output of `k_proj`.
        v: [B, H, V], the output of `v_proj` (before the convolution).
        gate: [B, H, V], the output of `g_proj`.
        beta_logits: [B, H], the output of `b_proj`.
        a: [B, H], the output of `a_proj`.
        conv_kernels: [B, H·V, W], the output of the kernel generator, bias included.
        A_log: [H].
        dt_bias: [H].
        norm_weight: [V].
        conv_state: [B, H·V, W], the last W inputs of the convolution, oldest first; updated in place.
        recurrent_state: [B, H, K, V] float32; updated in place.
        scale: of the queries; K^−½ if None.
        norm_eps: epsilon of the gated norm.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [B, H, V] in the dtype of `v`, the input of `o_proj`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    states = (conv_state, recurrent_state)
    x = Arguments(q, k, v, gate, beta_logits, a, conv_kernels, A_log, dt_bias, norm_weight, *states, scale, norm_eps)
    for name, tensor, shape in zip(Arguments._fields, x[:12], x.shapes()):
        if tensor.shape != shape:
            raise ValueError(f"jet_decode_step needs {name} of shape {list(shape)}; got {list(tensor.shape)}.")
    if not (conv_state.is_contiguous() and recurrent_state.is_contiguous()):
        raise ValueError("jet_decode_step updates conv_state and recurrent_state in place: pass contiguous tensors.")
    if resolve_backend(backend, q) == "torch":
        return reference.jet_decode_step(x)
    # Outside the compiler the operator's dispatch would only cost time: a step is a few microseconds.
    return _operator(*x) if torch.compiler.is_compiling() else _launch(*x)


def _launch(*values: Any) -> torch.Tensor:
    from jetlit_kernels.decode_step import kernels

    return kernels.jet_decode_step(Arguments._make(values))


def _fake(*values: Any) -> torch.Tensor:
    v = Arguments._make(values).v
    return v.new_empty(v.shape)


_operator = define(
    "jetlit_kernels::jet_decode_step", Arguments, _launch, _fake, mutates=("conv_state", "recurrent_state")
)
