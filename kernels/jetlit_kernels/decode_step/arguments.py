"""The arguments of a JetBlock's decode step."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of `jetlit_kernels.jet_decode_step`, whose docstring explains them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    gate: torch.Tensor
    beta_logits: torch.Tensor
    a: torch.Tensor
    conv_kernels: torch.Tensor
    A_log: torch.Tensor
    dt_bias: torch.Tensor
    norm_weight: torch.Tensor
    conv_state: torch.Tensor
    recurrent_state: torch.Tensor
    scale: float
    norm_eps: float

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape that each tensor must have, given those of q, v and conv_kernels."""
        batch, heads, key_dim = self.q.shape
        value_dim, taps = self.v.shape[-1], self.conv_kernels.shape[-1]
        keys, values, gates = (batch, heads, key_dim), (batch, heads, value_dim), (batch, heads)
        window = (batch, heads * value_dim, taps)
        per_head = (heads,)
        state = (batch, heads, key_dim, value_dim)
        return keys, keys, values, values, gates, gates, window, per_head, per_head, (value_dim,), window, state
