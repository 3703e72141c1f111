"""RWKV-7 time mixing (Peng et al., arXiv:2503.14456)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import dplr_delta_rule
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState, LinearMixer, LinearSettings, StateSpec, register_block
from jetlit.blocks.gates import at_least_float32, no_weight_decay, spread_memory
from jetlit.blocks.packing import SequencesWithHistory

# The paper's bound of the decay: w = exp(−e^(−0.5) σ(d)).
DECAY_BOUND = math.exp(-0.5)


def _default_rank(factor: float, hidden_size: int) -> int:
    return max(32, round(factor * math.sqrt(hidden_size) / 32) * 32)


class _LowRank(nn.Module):
    """The paper's loramlp: f(x A) B plus a bias where asked; A has `rank` columns, f is the activation."""

    def __init__(self, hidden_size: int, rank: int, outputs: int, activation: nn.Module, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, rank, bias=False)
        self.activation = activation
        self.up = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.activation(self.down(x)))


@register_block("rwkv7")
class RWKV7(LinearMixer):
    """S ← S (diag(w_t) − κ̂_tᵀ (a_t ⊙ κ̂_t)) + v_tᵀ k̃_t (section 4.1 of the paper, its state transposed to [K, V]).

    Each projection sees its own mixture of a token with the one before (token shift). With ⊙ by element and all
    products by head: w = exp(−e^(−0.5) σ(w0 + tanh(x_w A) B)); a = σ(a0 + x_a A B); κ̂ = (k ⊙ ξ) / ‖k ⊙ ξ‖;
    k̃ = k ⊙ (1 + α ⊙ (a − 1)); output = (σ(x_g A) B ⊙ (GroupNorm(S r) + (r · (ρ ⊙ k̃)) v)) W_o. The value residual
    across layers is left out: a block knows no other layer. `q_proj` is the paper's receptance.
    """

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block.

        The paper has expand_v 1. As there, norm_eps is for each channel of a head: the group norm's epsilon is
        V · norm_eps.
        """

        decay_rank: int | None = None  # rank of the decay's projection; None: max(32, 2.5 √hidden), in steps of 32
        rate_rank: int | None = None  # rank of the in-context learning rate's; None: the same
        gate_rank: int | None = None  # rank of the output gate's; None: max(32, 5 √hidden), in steps of 32

    settings: Settings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own, hidden = self.settings, self.hidden_size
        rank, gate_rank = _default_rank(2.5, hidden), own.gate_rank or _default_rank(5, hidden)
        self.w_lora = _LowRank(hidden, own.decay_rank or rank, self.key_dim, nn.Tanh(), bias=True)
        self.a_lora = _LowRank(hidden, own.rate_rank or rank, self.key_dim, nn.Identity(), bias=True)
        self.g_lora = _LowRank(hidden, gate_rank, self.value_dim, nn.Sigmoid(), bias=False)
        self.x_mix = nn.Parameter(torch.empty(6, hidden))  # of r, w, k, v, a and g
        self.k_k = nn.Parameter(torch.empty(self.key_dim))
        self.k_a = nn.Parameter(torch.empty(self.key_dim))
        self.r_k = nn.Parameter(torch.empty(self.num_heads, self.head_dim))
        no_weight_decay(self, "x_mix", "k_k", "k_a", "r_k", "w_lora.up.bias", "a_lora.up.bias")
        self.g_norm = nn.GroupNorm(self.num_heads, self.value_dim, eps=self.norm_eps * self.value_head_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Start with decays spread over each head, half a learning rate and a token shift that grows by channel."""
        decay = spread_memory(self.head_dim, self.w_lora.up.bias, shortest=4)
        init.copy_(self.w_lora.up.bias, torch.logit(-decay / DECAY_BOUND).repeat(self.num_heads))
        init.zeros_(self.w_lora.up.weight)
        init.zeros_(self.a_lora.up.weight)
        init.zeros_(self.a_lora.up.bias)
        channel = torch.arange(self.hidden_size, device=self.x_mix.device) / self.hidden_size
        init.copy_(self.x_mix, (1 - channel.sqrt()).expand_as(self.x_mix))
        init.constant_(self.k_k, 0.85)
        init.ones_(self.k_a)
        init.zeros_(self.r_k)
        init.ones_(self.g_norm.weight)
        init.zeros_(self.g_norm.bias)

    def after_inheriting(self) -> None:
        """Show the projections that come from attention their own token only; open the output gate to about 1."""
        self.x_mix.zero_()
        # Its inputs are sigmoids, about 1/2 each.
        self.g_lora.up.weight.add_(2 / self.g_lora.up.in_features)

    def state_specs(self) -> dict[str, StateSpec]:
        """Add the last token's input, for the shift."""
        return super().state_specs() | {"shift": StateSpec((self.hidden_size, 1), None)}

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        # Mix every token with the one before it, once for each stream.
        sequences = SequencesWithHistory(hidden, state, "shift", 1, cu_seqlens)
        difference = sequences.at_tokens(sequences.rows, 1) - hidden
        x_r, x_w, x_k, x_v, x_a, x_g = torch.addcmul(hidden, difference, self.x_mix[:, None, None])
        r, k, v = (self.split_heads(p(x)) for p, x in ((self.q_proj, x_r), (self.k_proj, x_k), (self.v_proj, x_v)))
        log_decay = -DECAY_BOUND * at_least_float32(self.split_heads(self.w_lora(x_w))).sigmoid()
        rate = self.split_heads(self.a_lora(x_a)).sigmoid()
        erase = F.normalize(k * self.split_heads(self.k_k), dim=-1)
        k = k * (1 + (rate - 1) * self.split_heads(self.k_a))
        o = state.recur(dplr_delta_rule, r, log_decay, k, v, -erase, erase * rate, cu_seqlens=cu_seqlens)
        o = self.g_norm(o.flatten(0, 1).flatten(1)).unflatten(0, hidden.shape[:2])
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v
        return self.o_proj((o + bonus.flatten(2)) * self.g_lora(x_g))
