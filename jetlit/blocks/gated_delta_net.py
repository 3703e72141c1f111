"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, arXiv:2412.06464)."""

from __future__ import annotations

import torch
from jetlit_kernels import gated_delta_rule, log_decay_and_beta
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState
from jetlit.blocks.gates import init_decay, no_weight_decay, spread_decay
from jetlit.blocks.read_out import GatedReadOut
from jetlit.blocks.short_convolution import ConvolvedMixer


class GatedDeltaNet(GatedReadOut, ConvolvedMixer):
    """S ← α_t (I − β_t k_t k_tᵀ) S + β_t k_t ⊗ v_t with a decay α_t of each head that depends on the token.

    Short convolutions with SiLU on q, k and v, unit queries and keys, RMSNorm of each head and a SiLU gate on the
    output (section 3.4 of the paper).

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias.
        norm_eps: epsilon of the output norm.
        conv_size: W, taps of the convolutions.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 2.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        conv_size: int = 4,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps, conv_size)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.A_log = no_weight_decay(nn.Parameter(torch.empty(num_heads)))
        self.dt_bias = no_weight_decay(nn.Parameter(torch.empty(num_heads)))
        self.add_gate()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises convolutions, decays and the output norm."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias)
        init.ones_(self.o_norm.weight)

    def after_inheriting(self) -> None:
        """Opens the convolutions and lets the heads remember."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.convolved_heads(hidden, state, cu_seqlens)
        g, beta = log_decay_and_beta(self.b_proj(hidden), self.a_proj(hidden), self.A_log, self.dt_bias)
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
        return self.read_out(o, hidden)
