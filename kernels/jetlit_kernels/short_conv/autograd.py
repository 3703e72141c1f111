"""The short convolution's Triton kernels as PyTorch operators."""

from __future__ import annotations

import torch

from jetlit_kernels.history import final_inputs
from jetlit_kernels.operators import differentiable
from jetlit_kernels.short_conv.arguments import Arguments

Tensors = tuple[torch.Tensor, ...]


def _forward(a: Arguments) -> torch.Tensor:
    from jetlit_kernels.short_conv.launch import forward

    return forward(a)


def _fake(a: Arguments) -> torch.Tensor:
    return a.x.new_empty(a.x.shape)


def _backward(a: Arguments, kept: Tensors, d_out: torch.Tensor) -> Tensors:
    from jetlit_kernels.short_conv.launch import backward

    return backward(a, d_out)


def _fake_backward(a: Arguments) -> Tensors:
    d_bias = a.x.new_empty(0) if a.bias is None else a.bias.new_empty(a.bias.shape)
    return a.x.new_empty(a.x.shape), a.weight.new_empty(a.weight.shape), d_bias


short_conv_op, run = differentiable(
    "jetlit_kernels::short_conv", Arguments, _forward, _fake, _backward, _fake_backward, gradients=3
)


def final_state(a: Arguments) -> torch.Tensor:
    """Return the last W inputs of every sequence, oldest first: [N, D, W] in the dtype of `x`; differentiable."""
    if (torch.is_grad_enabled() and a.x.requires_grad) or torch.compiler.is_compiling():
        return final_inputs(a.x, a.weight.shape[1], a.state, a.cu_seqlens)
    from jetlit_kernels.short_conv.launch import final_state as launch

    return launch(a)
