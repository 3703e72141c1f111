"""The output that most linear blocks share: each head normalised and gated, then projected."""

from __future__ import annotations

import torch
from jetlit_kernels import gated_rms_norm
from torch import nn

from jetlit.blocks.base import LinearMixer
from jetlit.blocks.rms_norm import RMSNorm


class GatedReadOut(LinearMixer):
    """A linear block whose output is RMSNorm(o) · SiLU(gate) for each head, through the output projection."""

    def add_gate(self) -> None:
        """Makes the gate's projection and the norm; constructors call it after the shared projections."""
        self.g_proj = nn.Linear(self.hidden_size, self.value_dim, bias=False)
        self.o_norm = RMSNorm(self.value_head_dim, self.norm_eps)

    def read_out(self, o: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Norms, gates and projects [B, T, h, V] to [B, T, hidden]."""
        gate = self.split_heads(self.g_proj(hidden))
        return super().read_out(gated_rms_norm(o, gate, self.o_norm.weight, self.norm_eps), hidden)
