"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, arXiv:2412.06464)."""

from __future__ import annotations

import torch

from jetlit.blocks.base import CarriedState
from jetlit.blocks.gated_delta import GatedDeltaMixer
from jetlit.blocks.short_convolution import ConvolvedMixer


class GatedDeltaNet(GatedDeltaMixer, ConvolvedMixer):
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
        self.add_decay()
        self.add_gate()
        self.init_weights()

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.convolved_heads(hidden, state, cu_seqlens)
        o = self.recur(q, k, v, self.a_proj(hidden), self.b_proj(hidden), state, cu_seqlens)
        return self.read_out(o, hidden)
