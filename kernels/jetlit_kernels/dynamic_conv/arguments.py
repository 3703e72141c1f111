"""The arguments of the dynamic convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of the dynamic convolution's kernels.

    Attributes:
        v: [B, T, D].
        hidden: [B, T, R].
        weight: [D·W, R].
        bias: [D·W].
        state: [N, D, W], the inputs before the start, or None for zeros.
        cu_seqlens: [N + 1], the bounds of packed sequences, or None.
        silu: whether SiLU is applied to the result.
        trains_state: whether the state has a gradient.
    """

    v: torch.Tensor
    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    state: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    silu: bool
    trains_state: bool

    @property
    def taps(self) -> int:
        """W."""
        return self.weight.shape[0] // self.v.shape[-1]
