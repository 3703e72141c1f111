"""The arguments of the kernels of linear attention with vector decays."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of linear attention with a decay for every row of the state.

    Attributes:
        q: [B, T, H, K] in bfloat16 or float32, as k and v.
        k: [B, T, H, K].
        v: [B, T, H, V].
        g: [B, T, H, K], log decays.
        initial_state: [N, H, K, V], or None for zeros.
        cu_seqlens: [N + 1], the bounds of packed sequences, or None.
        scale: factor of the output.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    initial_state: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    scale: float
