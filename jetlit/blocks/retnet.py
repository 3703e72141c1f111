"""RetNet's multi-scale retention (Sun et al., arXiv:2307.08621)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jetlit_kernels import linear_attention, rotary_angles, rotate
from torch import nn

from jetlit.blocks.base import CarriedState, LinearMixer, LinearSettings, StateSpec, register_block
from jetlit.blocks.fused_step import fused_step
from jetlit.blocks.packing import packed_positions, sequence_index
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import HeadRMSNorm
from jetlit.errors import UserError


@register_block("retnet")
class RetNet(LinearMixer):
    """S ← γ_h S + k_t ⊗ v_t with a fixed decay γ_h = 1 − 2^(−5−h) of each head, and rotated queries and keys.

    RMSNorm of each head and a SiLU gate on the output (section 2.2 of the paper; its group norm without the mean, as
    is usual). The rotation is rotary embedding in the half-split layout of Llama and Qwen. The block counts its
    positions itself and carries them.
    """

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block; head_dim must be even."""

        expand_v: float = 2.0
        rope_theta: float = 10000.0  # base of the rotation's wavelengths

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.head_dim % 2:
                raise UserError(f"RetNet rotates pairs of channels: head_dim must be even, not {self.head_dim}.")

    settings: Settings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.g_proj = nn.Linear(self.hidden_size, self.value_dim, bias=False)
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)

    def log_decay(self, device: torch.device) -> torch.Tensor:
        """Return log γ of each head: [h], float64."""
        return torch.log1p(-torch.exp2(-5 - torch.arange(self.num_heads, dtype=torch.float64, device=device)))

    def _rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin [B or 1, T, K/2] of positions, in float32 (float64 for float64 inputs)."""
        exact = torch.promote_types(dtype, torch.float32)
        return rotary_angles(positions, self.head_dim, self.settings.rope_theta, exact)

    def state_specs(self) -> dict[str, StateSpec]:
        """Add the number of tokens seen."""
        return super().state_specs() | {"position": StateSpec((), torch.int64)}

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v, gate = project(hidden, self.step_inputs())
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)
        cos, sin = self._rotation(_count_positions(hidden, state, cu_seqlens), q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        g = self.log_decay(hidden.device).to(torch.promote_types(q.dtype, torch.float32))
        o = state.recur(linear_attention, q, k, v, g.expand(*hidden.shape[:2], -1), cu_seqlens=cu_seqlens)
        return self.o_proj(self.o_norm(o, gate))

    def step_inputs(self) -> list[nn.Linear]:
        """See `LinearMixer.step_inputs`."""
        return [self.q_proj, self.k_proj, self.v_proj, self.g_proj]

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """See `LinearMixer.step_reads`."""
        return {"o_norm": HeadRMSNorm}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `LinearMixer.step`."""
        q, k, v, gate = projected
        position = states["position"] if slots is None else states["position"][slots]
        cos, sin = self._rotation(position[:, None], q.dtype)
        q, k = (rotate(self.split_heads(x)[:, None], cos, sin).flatten(1) for x in (q, k))
        states["position"][... if slots is None else slots] += 1
        g = self.log_decay(q.device).to(cos.dtype).expand(len(q), -1)
        return fused_step(
            self,
            (q, k, v),
            states,
            slots,
            gate=gate,
            log_decay=g,
        )


def _count_positions(hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """Return each token's position in its sequence, [B or 1, T] int64; advance the count carried as "position"."""
    batch, length = hidden.shape[:2]
    if cu_seqlens is None:
        lengths = torch.full((batch,), length, device=hidden.device)
        owner = torch.arange(batch, device=hidden.device)[:, None]
        positions = torch.arange(length, device=hidden.device)[None]
    else:
        bounds = cu_seqlens.to(hidden.device, torch.long)
        lengths, owner = bounds.diff(), sequence_index(bounds, length)[None]
        positions = packed_positions(bounds, length)[None]
    seen = state.read("position")
    if seen is not None:
        positions, lengths = positions + seen[owner], lengths + seen
    state.write("position", lengths)
    return positions
