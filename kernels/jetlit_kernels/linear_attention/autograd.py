"""Triton kernels of linear attention with vector decays as PyTorch operators.

Unlike the gated delta rule's they keep no state for the backward pass. The launchers are imported where they are
called: Triton is absent on some machines, where nothing calls them.
"""

from __future__ import annotations

import torch

from jetlit_kernels.linear_attention.arguments import Arguments
from jetlit_kernels.operators import contiguous, differentiable

Tensors = tuple[torch.Tensor, ...]
GRADIENTS = 5  # of the arguments from q to initial_state


def _contiguous(a: Arguments) -> Arguments:
    return Arguments._make((*contiguous(*a[:GRADIENTS]), *a[GRADIENTS:]))


def _state_like(a: Arguments) -> torch.Tensor:
    sequences = a.q.shape[0] if a.cu_seqlens is None else a.cu_seqlens.shape[0] - 1
    return a.q.new_empty(sequences, *a.q.shape[2:], a.v.shape[3], dtype=torch.float32)


def _forward(a: Arguments) -> Tensors:
    from jetlit_kernels.linear_attention.launch import forward

    return forward(_contiguous(a))


def _fake(a: Arguments) -> Tensors:
    return torch.empty_like(a.v, memory_format=torch.contiguous_format), _state_like(a)


def _backward(a: Arguments, kept: Tensors, do: torch.Tensor | None, d_final: torch.Tensor | None) -> Tensors:
    from jetlit_kernels.linear_attention.launch import backward

    do = torch.zeros_like(a.v) if do is None else do
    d_final = None if d_final is None else d_final.contiguous()
    return backward(_contiguous(a), do.contiguous(), d_final)


def _fake_backward(a: Arguments) -> Tensors:
    like_inputs = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a.q, a.k, a.v, a.g))
    return *like_inputs, _state_like(a)


gated_linear_attention_op, gated_linear_attention = differentiable(
    "jetlit_kernels::gated_linear_attention",
    Arguments,
    _forward,
    _fake,
    _backward,
    _fake_backward,
    results=2,
    gradients=GRADIENTS,
)
