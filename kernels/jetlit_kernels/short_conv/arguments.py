"""The arguments of the short convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of the short convolution's kernels.

    Attributes:
        x: [B, T, D].
        weight: [D, W].
        bias: [D] or None.
        state: [N, D, W], the inputs before the start, or None for zeros.
        cu_seqlens: [N + 1], the bounds of packed sequences, or None.
        silu: whether SiLU is applied to the result.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    state: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    silu: bool
