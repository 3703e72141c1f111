"""Gated linear attention (Yang, Wang, Shen, Panda and Kim, arXiv:2312.06635)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import linear_attention
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState, LinearMixer, LinearSettings, register_block
from jetlit.blocks.fused_step import fused_step
from jetlit.blocks.gates import at_least_float32, no_weight_decay, spread_memory
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import HeadRMSNorm


@register_block("gla")
class GLA(LinearMixer):
    """S ← diag(α_t) S + k_t ⊗ v_t, where every row of the state has a decay that depends on the token.

    log α = logsigmoid(low-rank projection) / 16, RMSNorm of each head and a SiLU gate on the output (section 4.4 of
    the paper). The gate's bias starts so that, within each head, rows remember from 16 to 1,024 tokens.
    """

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block."""

        gate_rank: int = 16  # rank of the decay's projection
        gate_normalizer: float = 16.0  # what the log decay is divided by

    settings: Settings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        rank, self.gate_normalizer = self.settings.gate_rank, self.settings.gate_normalizer
        self.gk_proj = nn.Sequential(
            nn.Linear(self.hidden_size, rank, bias=False), nn.Linear(rank, self.key_dim, bias=True)
        )
        no_weight_decay(self, "gk_proj.1.bias")
        self.g_proj = nn.Linear(self.hidden_size, self.value_dim, bias=False)
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Spread the decays over the rows of each head."""
        super().init_weights()
        bias = self.gk_proj.get_parameter("1.bias")
        decay = spread_memory(self.head_dim, bias) * self.gate_normalizer
        # The inverse of logsigmoid.
        init.copy_(bias, -torch.log(torch.expm1(-decay)).repeat(self.num_heads))

    def log_decay(self, rank: torch.Tensor) -> torch.Tensor:
        """Return log α [..., h, K] in float32 from the low-rank projection [..., rank]."""
        return F.logsigmoid(at_least_float32(self.split_heads(self.gk_proj[1](rank)))) / self.gate_normalizer

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v, gate, rank = project(hidden, self.step_inputs())
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)
        g = self.log_decay(rank)
        o = state.recur(linear_attention, q, k, v, g, cu_seqlens=cu_seqlens)
        return self.o_proj(self.o_norm(o, gate))

    def step_inputs(self) -> list[nn.Linear]:
        """See `LinearMixer.step_inputs`."""
        low: Any = self.gk_proj[0]
        return [self.q_proj, self.k_proj, self.v_proj, self.g_proj, low]

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """See `LinearMixer.step_reads`."""
        return {"o_norm": HeadRMSNorm, "gk_proj": nn.Sequential}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `LinearMixer.step`."""
        q, k, v, gate, rank = projected
        return fused_step(
            self,
            (q, k, v),
            states,
            slots,
            gate=gate,
            log_decay=self.log_decay(rank),
        )
