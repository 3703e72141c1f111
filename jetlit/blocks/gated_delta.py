"""The time mixing that JetBlock and Gated DeltaNet share: the gated delta rule, and its decays and write strengths."""

from __future__ import annotations

import torch
from jetlit_kernels import gated_delta_rule, log_decay_and_beta
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState
from jetlit.blocks.gates import init_decay, no_weight_decay, spread_decay
from jetlit.blocks.read_out import GatedReadOut


class GatedDeltaMixer(GatedReadOut):
    """A linear block on S ← α_t (I − β_t k_t k_tᵀ) S + β_t k_t ⊗ v_t, α_t and β_t of each head and token."""

    def add_decay(self) -> None:
        """Makes the parameters of α and β; constructors call it after the shared projections."""
        self.a_proj = nn.Linear(self.hidden_size, self.num_heads, bias=False)
        self.b_proj = nn.Linear(self.hidden_size, self.num_heads, bias=False)
        self.A_log = no_weight_decay(nn.Parameter(torch.empty(self.num_heads)))
        self.dt_bias = no_weight_decay(nn.Parameter(torch.empty(self.num_heads)))

    def init_weights(self) -> None:
        """Initialises the decays and the output norm."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias)
        init.ones_(self.o_norm.weight)

    def after_inheriting(self) -> None:
        """Lets the heads remember."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)

    def recur(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        state: CarriedState,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        """Runs the rule and carries its state; returns o [B, T, h, V].

        Args:
            q: [B, T, h, K], SiLU still to come.
            k: the same.
            v: [B, T, h, V].
            a: [B, T, h], `a_proj`'s output.
            b: the same of `b_proj`.
            state: the layer's.
            cu_seqlens: see `TokenMixer.forward`.
        """
        g, beta = log_decay_and_beta(b, a, self.A_log, self.dt_bias)
        o, final = gated_delta_rule(
            q,
            k,
            v,
            g,
            beta,
            initial_state=state.read("recurrent"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
            qk_activation="silu",
        )
        state.write("recurrent", final)
        return o
