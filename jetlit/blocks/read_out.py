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
        return self.gated_output(o, self.g_proj(hidden))

    def gated_output(self, o: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Norms [B, T, h, V], gates it with [B, T, h · V] and projects it to [B, T, hidden]."""
        normed = gated_rms_norm(o, self.split_heads(gate), self.o_norm.weight, self.norm_eps)
        return self.o_proj(normed.flatten(2))
