"""The arguments of a decode step."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Arguments(NamedTuple):
    """The arguments of `jetlit_kernels.recurrent_step`, whose docstring explains them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    recurrent_state: torch.Tensor
    norm_weight: torch.Tensor
    gate: torch.Tensor | None
    skip_weight: torch.Tensor | None
    beta_logits: torch.Tensor | None
    log_decay: torch.Tensor | None
    a: torch.Tensor | None
    A_log: torch.Tensor | None
    dt_bias: torch.Tensor | None
    q_kernels: torch.Tensor | None
    k_kernels: torch.Tensor | None
    v_kernels: torch.Tensor | None
    q_bias: torch.Tensor | None
    k_bias: torch.Tensor | None
    v_bias: torch.Tensor | None
    q_window: torch.Tensor | None
    k_window: torch.Tensor | None
    v_window: torch.Tensor | None
    slots: torch.Tensor | None
    scale: float
    norm_eps: float
    delta_rule: bool
    qk_silu: bool
    qk_l2norm: bool
    norm_before_gate: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape that each tensor must have, given those of q, v, the windows and the state."""
        batch, heads, key_dim = self.q.shape
        value_dim, states = self.v.shape[-1], self.recurrent_state.shape[0]
        keys, values, per_token, per_head = (batch, heads, key_dim), (batch, heads, value_dim), (batch, heads), (heads,)
        expected = {
            "k": keys,
            "v": values,
            "recurrent_state": (states, heads, key_dim, value_dim),
            "norm_weight": (value_dim,),
            "gate": values,
            "skip_weight": per_head,
            "beta_logits": per_token,
            "log_decay": keys if self.log_decay is not None and self.log_decay.ndim == 3 else per_token,
            "a": per_token,
            "A_log": per_head,
            "dt_bias": per_head,
            "slots": (batch,),
        }
        for name, size in (("q", key_dim), ("k", key_dim), ("v", value_dim)):
            window = getattr(self, f"{name}_window")
            taps = 0 if window is None else window.shape[-1]
            expected |= {
                f"{name}_window": (states, heads * size, taps),
                f"{name}_kernels": (batch, heads * size, taps),
                f"{name}_bias": (heads * size,),
            }
        return expected
