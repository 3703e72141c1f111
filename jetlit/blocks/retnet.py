"""RetNet's multi-scale retention (Sun et al., arXiv:2307.08621)."""

from __future__ import annotations

import math

import torch
from jetlit_kernels import linear_attention
from transformers import initialization as init

from jetlit.blocks.base import CarriedState, StateSpec
from jetlit.blocks.gates import at_least_float32
from jetlit.blocks.read_out import GatedReadOut
from jetlit.errors import UserError


class RetNet(GatedReadOut):
    """S ← γ_h S + k_t ⊗ v_t with a fixed decay γ_h = 1 − 2^(−5−h) of each head, and rotated queries and keys.

    RMSNorm of each head and a SiLU gate on the output (section 2.2 of the paper, its group norm without the mean as
    the field has it). The rotation is rotary embedding in the half-split layout of Llama and Qwen; the block counts
    its positions itself and carries them.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K, even.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias.
        norm_eps: epsilon of the output norm.
        rope_theta: base of the rotation's wavelengths.

    Raises:
        UserError: `head_dim` is odd.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 2.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        rope_theta: float = 10000.0,
    ) -> None:
        if head_dim % 2:
            raise UserError(f"RetNet rotates pairs of channels: head_dim must be even, not {head_dim}.")
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps)
        self.rope_theta = rope_theta
        self.add_gate()

    def init_weights(self) -> None:
        """Initialises the output norm."""
        init.ones_(self.o_norm.weight)

    def log_decay(self, device: torch.device) -> torch.Tensor:
        """Returns log γ of each head: [h], float64."""
        return torch.log1p(-torch.exp2(-5 - torch.arange(self.num_heads, dtype=torch.float64, device=device)))

    def state_specs(self) -> dict[str, StateSpec]:
        """The recurrent state and the number of tokens seen."""
        return super().state_specs() | {"position": StateSpec((), torch.int64)}

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v = self.heads(hidden)
        positions = count_positions(hidden, state, cu_seqlens)
        q, k = rotate(q, positions, self.rope_theta), rotate(k, positions, self.rope_theta)
        g = self.log_decay(hidden.device).to(torch.promote_types(q.dtype, torch.float32))
        o, final = linear_attention(
            q,
            k,
            v,
            g.expand(*hidden.shape[:2], -1),
            initial_state=state.read("recurrent"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
        )
        state.write("recurrent", final)
        return self.read_out(o, hidden)


def count_positions(hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """Returns each token's position in its sequence, [B or 1, T] int64; advances the count carried as "position"."""
    batch, length = hidden.shape[:2]
    token = torch.arange(length, device=hidden.device)
    if cu_seqlens is None:
        lengths = torch.full((batch,), length, device=hidden.device)
        owner, local = torch.arange(batch, device=hidden.device)[:, None], token[None]
    else:
        bounds = cu_seqlens.to(hidden.device, torch.long)
        lengths = bounds.diff()
        owner = torch.searchsorted(bounds[1:], token, right=True)[None]
        local = token[None] - bounds[owner]
    seen = state.read("position")
    if seen is not None:
        local, lengths = local + seen[owner], lengths + seen
    if state.kept:
        state.write("position", lengths)
    return local


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotates the pairs (i, i + K/2) of [B, T, h, K] by position · theta^(−2i/K)."""
    half = x.shape[-1] // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float64, device=x.device) * (-math.log(theta) / half))
    angle = positions[..., None, None] * frequency
    exact = at_least_float32(x)
    cos, sin = angle.cos().to(exact.dtype), angle.sin().to(exact.dtype)
    first, second = exact.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
