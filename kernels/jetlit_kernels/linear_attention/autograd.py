"""Triton kernels of linear attention with vector decays as PyTorch operators: one node each for autograd and compilers.

Unlike the gated delta rule's they keep no state for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch

from jetlit_kernels.operators import differentiable, without_gradient

Gradients = tuple[torch.Tensor | None, ...]


def _launcher() -> Any:
    # Imported on the first launch: Triton is absent on some machines, where nothing calls these operators.
    from jetlit_kernels.linear_attention import launch as gated_linear_attention

    return gated_linear_attention


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _state_like(q: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return q.new_empty(sequences, q.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs linear attention with log decays g [B, T, H, K]; q, k and v have one dtype, bfloat16 or float32.

    Returns o [B, T, H, V] and the final states [N, H, K, V] in float32.
    """
    tensors = (_contiguous(t) for t in (q, k, v, g, initial_state))
    return _launcher().forward(*tensors, cu_seqlens, scale)


gated_linear_attention_op = torch.library.custom_op(
    "jetlit_kernels::gated_linear_attention",
    _forward,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? initial_state, Tensor? cu_seqlens, float scale) "
    "-> (Tensor, Tensor)",
)


@gated_linear_attention_op.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), _state_like(q, v, cu_seqlens)


def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of q, k, v, g and of the initial states, the latter in float32."""
    tensors = (_contiguous(t) for t in (q, k, v, g, initial_state))
    return _launcher().backward(*tensors, cu_seqlens, do.contiguous(), _contiguous(d_final), scale)


gated_linear_attention_backward_op = torch.library.custom_op(
    "jetlit_kernels::gated_linear_attention_backward",
    _gradients,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? initial_state, Tensor? cu_seqlens, Tensor do, "
    "Tensor? d_final, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@gated_linear_attention_backward_op.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, ...]:
    like_inputs = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v, g))
    return (*like_inputs, _state_like(q, v, cu_seqlens))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, do: torch.Tensor | None, d_final: torch.Tensor | None) -> Gradients:
    q, k, v, g, initial_state, cu_seqlens = ctx.saved_tensors
    do = torch.zeros_like(v) if do is None else do
    *gradients, d_initial = _call_backward(q, k, v, g, initial_state, cu_seqlens, do, d_final, ctx.scale)
    return *gradients, None if initial_state is None else d_initial.to(initial_state.dtype), None, None


_call_backward = without_gradient(gated_linear_attention_backward_op, _gradients)
gated_linear_attention = differentiable(gated_linear_attention_op, _forward, _setup_context, _backward)
