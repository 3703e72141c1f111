"""Gated linear attention (Yang, Wang, Shen, Panda and Kim, arXiv:2312.06635)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jetlit_kernels import linear_attention
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState
from jetlit.blocks.gates import at_least_float32, no_weight_decay, spread_memory
from jetlit.blocks.read_out import GatedReadOut


class GLA(GatedReadOut):
    """S ← diag(α_t) S + k_t ⊗ v_t, where every row of the state has a decay that depends on the token.

    log α = logsigmoid(low-rank projection) / 16, RMSNorm of each head and a SiLU gate on the output (section 4.4 of
    the paper). The gate's bias starts so that, within each head, rows remember from 16 to 1,024 tokens.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias.
        norm_eps: epsilon of the output norm.
        gate_rank: rank of the decay's projection.
        gate_normaliser: what the log decay is divided by.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 1.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        gate_rank: int = 16,
        gate_normaliser: float = 16.0,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps)
        self.gate_normaliser = gate_normaliser
        self.gk_proj = nn.Sequential(
            nn.Linear(hidden_size, gate_rank, bias=False), nn.Linear(gate_rank, self.key_dim, bias=True)
        )
        no_weight_decay(self.gk_proj.get_parameter("1.bias"))
        self.add_gate()
        self.init_weights()

    def init_weights(self) -> None:
        """Spreads the decays over the rows of each head; initialises the output norm."""
        bias = self.gk_proj.get_parameter("1.bias")
        decay = spread_memory(self.head_dim, bias) * self.gate_normaliser
        # The inverse of logsigmoid.
        init.copy_(bias, -torch.log(torch.expm1(-decay)).repeat(self.num_heads))
        init.ones_(self.o_norm.weight)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.heads(hidden)
        g = F.logsigmoid(at_least_float32(self.split_heads(self.gk_proj(hidden)))) / self.gate_normaliser
        o, final = linear_attention(
            q,
            k,
            v,
            g,
            initial_state=state.read("recurrent"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
        )
        state.write("recurrent", final)
        return self.read_out(o, hidden)
