"""Mamba2 in its dual form, state space duality (Dao and Gu, arXiv:2405.21060)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jetlit_kernels import linear_attention
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState
from jetlit.blocks.gates import at_least_float32, init_decay, no_weight_decay, spread_decay
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.blocks.short_convolution import ConvolvedMixer


class Mamba2(ConvolvedMixer):
    """S ← exp(Δ_t A) S + Δ_t B_t ⊗ x_t; y_t = S_tᵀ C_t + D x_t, with a scalar A and step Δ_t of each head.

    In the words of attention C is q, B is k and x is v (section 7 of the paper). Every head has its own B and C, as
    many groups as heads in the paper's terms, so that whole attention heads can be inherited. Short convolutions with
    bias and SiLU; the output is gated, then RMS-normalised for each head.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K, the paper's state size N.
        expand_v: V = int(K · expand_v), the paper's head size P.
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
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps, conv_size, conv_bias=True)
        self.dt_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.g_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        self.A_log = no_weight_decay(nn.Parameter(torch.empty(num_heads)))
        self.dt_bias = no_weight_decay(nn.Parameter(torch.empty(num_heads)))
        self.D = no_weight_decay(nn.Parameter(torch.empty(num_heads)))
        self.o_norm = RMSNorm(self.value_head_dim, self.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises convolutions, decays (A ~ U(1, 16)), the skip D and the output norm."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias, a_min=1.0)
        init.ones_(self.D)
        init.ones_(self.o_norm.weight)

    def after_inheriting(self) -> None:
        """Opens the convolutions, lets the heads remember, and closes the skip, which attention does not have."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)
        self.D.zero_()

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.convolved_heads(hidden, state, cu_seqlens)
        dt = F.softplus(at_least_float32(self.dt_proj(hidden)) + at_least_float32(self.dt_bias))
        o, final = linear_attention(
            F.silu(q),
            F.silu(k),
            v * dt[..., None].to(v.dtype),
            -at_least_float32(self.A_log).exp() * dt,
            scale=1.0,
            initial_state=state.read("recurrent"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
        )
        state.write("recurrent", final)
        o = o + self.D[:, None].to(v.dtype) * v
        o = self.o_norm(o * F.silu(self.split_heads(self.g_proj(hidden))))
        return self.read_out(o, hidden)
