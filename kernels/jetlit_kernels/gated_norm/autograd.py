"""The gated RMSNorm's Triton kernels as PyTorch operators."""

from __future__ import annotations

from typing import NamedTuple

import torch

from jetlit_kernels.operators import differentiable

Tensors = tuple[torch.Tensor, ...]


class Arguments(NamedTuple):
    """The arguments of the gated RMSNorm: o and gate [..., V], weight [V], and the norm's epsilon."""

    o: torch.Tensor
    gate: torch.Tensor
    weight: torch.Tensor
    eps: float


def _forward(a: Arguments) -> torch.Tensor:
    from jetlit_kernels.gated_norm.kernels import forward

    return forward(*a)


def _fake(a: Arguments) -> torch.Tensor:
    return a.o.new_empty(a.o.shape)


def _backward(a: Arguments, kept: Tensors, d_out: torch.Tensor) -> Tensors:
    from jetlit_kernels.gated_norm.kernels import backward

    return backward(d_out, *a)


def _fake_backward(a: Arguments) -> Tensors:
    return tuple(t.new_empty(t.shape) for t in (a.o, a.gate, a.weight))


gated_rms_norm_op, run = differentiable(
    "jetlit_kernels::gated_rms_norm", Arguments, _forward, _fake, _backward, _fake_backward, gradients=3
)
