"""The gated RMSNorm's Triton kernels as PyTorch operators."""

from __future__ import annotations

import torch

from jetlit_kernels.gated_norm.arguments import Arguments
from jetlit_kernels.operators import differentiable

Tensors = tuple[torch.Tensor, ...]


def _forward(a: Arguments) -> torch.Tensor:
    from jetlit_kernels.gated_norm.kernels import forward

    return forward(a)


def _fake(a: Arguments) -> torch.Tensor:
    return a.o.new_empty(a.o.shape)


def _backward(a: Arguments, kept: Tensors, d_out: torch.Tensor) -> Tensors:
    from jetlit_kernels.gated_norm.kernels import backward

    return backward(a, d_out)


def _fake_backward(a: Arguments) -> Tensors:
    return tuple(a.o.new_empty(0) if t is None else t.new_empty(t.shape) for t in a[:5])


gated_rms_norm_op, run = differentiable(
    "jetlit_kernels::gated_rms_norm", Arguments, _forward, _fake, _backward, _fake_backward, gradients=5
)
