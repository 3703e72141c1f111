"""The decoder layer, its gated MLP and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from jetlit.blocks.base import MaskKind
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.mixers import build_mixer


@dataclass
class LayerInputs:
    """What all layers of one forward pass need beside the hidden states; masks are built when first used."""

    position_embeddings: tuple[torch.Tensor, torch.Tensor]  # cos and sin, each [B or 1, T, head_dim]
    cache: Any  # with a `layers` list for the blocks, or None
    cu_seqlens: torch.Tensor | None  # [N + 1], bounds of packed sequences
    build_mask: Callable[[MaskKind], torch.Tensor | None]
    _masks: dict[MaskKind, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, kind: MaskKind) -> torch.Tensor | None:
        """Return the mask for blocks of this kind, or None if they need none."""
        if kind not in self._masks:
            self._masks[kind] = self.build_mask(kind)
        return self._masks[kind]


class GatedMLP(nn.Module):
    """down(act(gate x) · up x), [B, T, H] to [B, T, H]."""

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)
        self.activation = ACT2FN[config.hidden_act]
        self.is_swiglu = config.hidden_act in ("silu", "swish")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the MLP to [B, T, H]."""
        gate, up = project(x, [self.gate_proj, self.up_proj])
        return self.down_proj(self.activation(gate) * up)


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm token mixing and MLP, each with its residual; `config.layer_types[index]` names the token mixer."""

    def __init__(self, config: JetNemotronConfig, index: int) -> None:
        super().__init__()
        assert config.layer_types is not None
        self.index = index
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn: nn.Module = build_mixer(config, config.layer_types[index])
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, hidden: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """Run the layer on [B, T, H]; `inputs` comes from `JetNemotronModel.layer_inputs`."""
        return self.feed_forward(hidden, self.mix(hidden, inputs))

    def mix(self, hidden: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """Return the token mixer's output [B, T, H], before the residual."""
        # A layer may be on another device than those before it.
        mask = inputs.mask(cast(MaskKind, self.self_attn.mask_kind))
        cos, sin = inputs.position_embeddings
        return self.self_attn(
            self.input_layernorm(hidden),
            cache=None if inputs.cache is None else inputs.cache.layers[self.index],
            attention_mask=None if mask is None else mask.to(hidden.device),
            cu_seqlens=None if inputs.cu_seqlens is None else inputs.cu_seqlens.to(hidden.device),
            position_embeddings=(cos.to(hidden.device), sin.to(hidden.device)),
        )

    def feed_forward(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add the token mixer's output, then the MLP's; all [B, T, H]."""
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden))
