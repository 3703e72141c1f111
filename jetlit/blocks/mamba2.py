"""Mamba2 in its dual form, state space duality (Dao and Gu, arXiv:2405.21060)."""

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
from jetlit.blocks.gates import at_least_float32, init_decay, no_weight_decay, spread_decay
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import HeadRMSNorm
from jetlit.blocks.short_convolution import ShortConvolution


@register_block("mamba2")
class Mamba2(LinearMixer):
    """S ← exp(Δ_t A) S + Δ_t B_t ⊗ x_t; y_t = S_tᵀ C_t + D x_t, with a scalar A and step Δ_t of each head.

    In the words of attention C is q, B is k and x is v (section 7 of the paper). Every head has its own B and C, as
    many groups as heads in the paper's terms, so that whole attention heads can be inherited. Short convolutions with
    bias and SiLU; the output is gated, then RMS-normalized for each head.
    """

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block; K is the paper's state size N, V its head size P."""

        expand_v: float = 2.0
        conv_size: int = 4  # W, taps of the convolutions

    settings: Settings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        taps = self.settings.conv_size
        self.q_conv1d = ShortConvolution("conv_q", self.key_dim, taps, bias=True)
        self.k_conv1d = ShortConvolution("conv_k", self.key_dim, taps, bias=True)
        self.v_conv1d = ShortConvolution("conv_v", self.value_dim, taps, bias=True)
        self.dt_proj = nn.Linear(self.hidden_size, self.num_heads, bias=False)
        self.g_proj = nn.Linear(self.hidden_size, self.value_dim, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.D = nn.Parameter(torch.empty(self.num_heads))
        no_weight_decay(self, "A_log", "dt_bias", "D")
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize convolutions, decays (A ~ U(1, 16)) and the skip D."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias, a_min=1.0)
        init.ones_(self.D)

    def after_inheriting(self) -> None:
        """Open the convolutions, let the heads remember, and close the skip, which attention does not have."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)
        self.D.zero_()

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v, gate, dt = project(hidden, self.step_inputs())
        q = self.split_heads(self.q_conv1d(q, state, cu_seqlens, "silu"))
        k = self.split_heads(self.k_conv1d(k, state, cu_seqlens, "silu"))
        v = self.split_heads(self.v_conv1d(v, state, cu_seqlens, "silu"))
        dt = F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias))
        g = -at_least_float32(self.A_log).exp() * dt
        # Δ_t B_t ⊗ x_t: the step goes with the narrower of the two.
        k = k * dt[..., None].to(k.dtype)
        o = state.recur(linear_attention, q, k, v, g, scale=1.0, cu_seqlens=cu_seqlens)
        return self.o_proj(self.o_norm(o, gate, norm_before_gate=False, skip=v, skip_weight=self.D))

    def step_inputs(self) -> list[nn.Linear]:
        """See `LinearMixer.step_inputs`."""
        return [self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.dt_proj]

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """See `LinearMixer.step_reads`."""
        return {"o_norm": HeadRMSNorm, **dict.fromkeys(("q_conv1d", "k_conv1d", "v_conv1d"), ShortConvolution)}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `LinearMixer.step`."""
        q, k, v, gate, dt = projected
        return fused_step(
            self,
            (q, k, v),
            states,
            slots,
            gate=gate,
            norm_before_gate=False,
            skip_weight=self.D,
            a=dt,
            A_log=self.A_log,
            dt_bias=self.dt_bias,
            scale=1.0,
            qk_silu=True,
        )
