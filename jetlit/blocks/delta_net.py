"""DeltaNet (Yang, Wang, Zhang, Shen and Kim, arXiv:2406.06484)."""

from __future__ import annotations

import torch
from jetlit_kernels import gated_delta_rule
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.blocks.short_convolution import ConvolvedMixer


class DeltaNet(ConvolvedMixer):
    """S ← (I − β_t k_t k_tᵀ) S + β_t k_t ⊗ v_t: the state forgets only what a new key overwrites.

    Short convolutions with SiLU on q, k and v, unit queries and keys, RMSNorm of each head; no decay, no output gate
    (section 3.4 of the paper).

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
        expand_v: float = 1.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        conv_size: int = 4,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps, conv_size)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.o_norm = RMSNorm(self.value_head_dim, self.norm_eps)

    def init_weights(self) -> None:
        """Initialises convolutions and the output norm."""
        super().init_weights()
        init.ones_(self.o_norm.weight)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.convolved_heads(hidden, state, cu_seqlens)
        o, final = gated_delta_rule(
            q,
            k,
            v,
            None,
            self.b_proj(hidden).sigmoid(),
            initial_state=state.read("recurrent"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
            qk_activation="silu",
        )
        state.write("recurrent", final)
        return self.read_out(self.o_norm(o), hidden)
