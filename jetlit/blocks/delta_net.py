"""DeltaNet (Yang, Wang, Zhang, Shen and Kim, arXiv:2406.06484)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jetlit_kernels import gated_delta_rule
from torch import nn

from jetlit.blocks.base import CarriedState, LinearMixer, LinearSettings, register_block
from jetlit.blocks.fused_step import fused_step
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import HeadRMSNorm
from jetlit.blocks.short_convolution import ShortConvolution


@register_block("delta_net")
class DeltaNet(LinearMixer):
    """S ← (I − β_t k_t k_tᵀ) S + β_t k_t ⊗ v_t: the state forgets only what a new key overwrites.

    Short convolutions with SiLU on q, k and v, unit queries and keys, RMSNorm of each head; no decay, no output gate
    (section 3.4 of the paper).
    """

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block."""

        conv_size: int = 4  # W, taps of the convolutions

    settings: Settings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        taps = self.settings.conv_size
        self.q_conv1d = ShortConvolution("conv_q", self.key_dim, taps)
        self.k_conv1d = ShortConvolution("conv_k", self.key_dim, taps)
        self.v_conv1d = ShortConvolution("conv_v", self.value_dim, taps)
        self.b_proj = nn.Linear(self.hidden_size, self.num_heads, bias=False)
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v, b = project(hidden, self.step_inputs())
        q = self.split_heads(self.q_conv1d(q, state, cu_seqlens))
        k = self.split_heads(self.k_conv1d(k, state, cu_seqlens))
        v = self.split_heads(self.v_conv1d(v, state, cu_seqlens, "silu"))
        o = state.recur(gated_delta_rule, q, k, v, None, b.sigmoid(), cu_seqlens=cu_seqlens, qk_activation="silu")
        return self.o_proj(self.o_norm(o))

    def step_inputs(self) -> list[nn.Linear]:
        """See `LinearMixer.step_inputs`."""
        return [self.q_proj, self.k_proj, self.v_proj, self.b_proj]

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """See `LinearMixer.step_reads`."""
        return {"o_norm": HeadRMSNorm, **dict.fromkeys(("q_conv1d", "k_conv1d", "v_conv1d"), ShortConvolution)}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `LinearMixer.step`."""
        q, k, v, b = projected
        return fused_step(
            self,
            (q, k, v),
            states,
            slots,
            beta_logits=b,
            delta_rule=True,
            qk_silu=True,
            qk_l2norm=True,
        )
