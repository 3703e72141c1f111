"""The rotation's Triton kernel as a PyTorch operator; its gradient is the rotation back."""

from __future__ import annotations

from typing import NamedTuple

import torch

from jetlit_kernels.operators import differentiable

Tensors = tuple[torch.Tensor, ...]


class Arguments(NamedTuple):
    """The arguments of the rotation: x [B, T, H, K], cos and sin [B or 1, T, K/2]."""

    x: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


def _forward(a: Arguments) -> torch.Tensor:
    from jetlit_kernels.rotate.kernels import launch

    return launch(*a, back=False)


def _fake(a: Arguments) -> torch.Tensor:
    return a.x.new_empty(a.x.shape)


def _backward(a: Arguments, kept: Tensors, d_out: torch.Tensor) -> torch.Tensor:
    from jetlit_kernels.rotate.kernels import launch

    return launch(d_out, a.cos, a.sin, back=True)


rotate_op, run = differentiable("jetlit_kernels::rotate", Arguments, _forward, _fake, _backward, _fake, gradients=1)
