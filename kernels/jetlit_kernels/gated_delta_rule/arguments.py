"""The arguments of the gated delta rule's kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of the gated delta rule, or of linear attention with a scalar decay when beta is None.

    Attributes:
        q: [B, T, H, K] in bfloat16 or float32, as k and v.
        k: [B, T, H, K].
        v: [B, T, H, V].
        g: [B, T, H], log decays.
        beta: [B, T, H], strengths of the writes, or None.
        initial_state: [N, H, K, V], or None for zeros.
        cu_seqlens: [N + 1], the bounds of packed sequences, or None.
        scale: factor of the output.
        l2norm: whether q and k are normalized.
        silu: whether SiLU is applied to q and k first.
        save: whether a backward pass may follow.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor | None
    initial_state: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    scale: float
    l2norm: bool
    silu: bool
    save: bool

    @property
    def sequences(self) -> int:
        """N."""
        return self.q.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1
