"""The dynamic convolution's Triton kernels as PyTorch operators."""

from __future__ import annotations

import torch

from jetlit_kernels.dynamic_conv.arguments import Arguments
from jetlit_kernels.dynamic_conv.reference import state_gradient
from jetlit_kernels.operators import differentiable

Tensors = tuple[torch.Tensor, ...]


def _forward(a: Arguments) -> torch.Tensor:
    from jetlit_kernels.dynamic_conv.launch import forward

    return forward(a)


def _fake(a: Arguments) -> torch.Tensor:
    return a.v.new_empty(a.v.shape)


def _backward(a: Arguments, kept: Tensors, d_out: torch.Tensor) -> Tensors:
    from jetlit_kernels.dynamic_conv.launch import backward

    return *backward(a, d_out), state_gradient(a, d_out) if a.trains_state else a.v.new_empty(0)


def _fake_backward(a: Arguments) -> Tensors:
    d_state = a.v.new_empty(0) if a.state is None or not a.trains_state else a.state.new_empty(a.state.shape)
    return *(t.new_empty(t.shape) for t in (a.v, a.hidden, a.weight, a.bias)), d_state


dynamic_conv_op, run = differentiable(
    "jetlit_kernels::dynamic_conv", Arguments, _forward, _fake, _backward, _fake_backward, gradients=5
)
