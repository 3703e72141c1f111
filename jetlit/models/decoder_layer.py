"""The decoder layer and its gated MLP."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from jetlit.blocks.base import MaskKind
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.layer_inputs import LayerInputs
from jetlit.models.mixers import build_mixer


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
        """Applies the MLP to [B, T, H]."""
        gate, up = project(x, [self.gate_proj, self.up_proj])
        return self.down_proj(self.activation(gate) * up)


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm token mixing and MLP, each with its residual.

    Args:
        config: of the model.
        index: of this layer; `config.layer_types[index]` names its token mixer.
    """

    def __init__(self, config: JetNemotronConfig, index: int) -> None:
        super().__init__()
        assert config.layer_types is not None
        self.index = index
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn: nn.Module = build_mixer(config, config.layer_types[index])
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, hidden: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """Runs the layer on [B, T, H]; `inputs` comes from `JetNemotronModel.layer_inputs`."""
        return self.feed_forward(hidden, self.mix(hidden, inputs))

    def mix(self, hidden: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """The token mixer's output, before the residual, on [B, T, H]."""
        return self.self_attn(
            self.input_layernorm(hidden),
            cache=inputs.layer_cache(self.index),
            attention_mask=inputs.mask(cast(MaskKind, self.self_attn.mask_kind)),
            cu_seqlens=inputs.cu_seqlens,
            position_embeddings=inputs.position_embeddings,
        )

    def feed_forward(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """What follows the token mixer: both residuals and the MLP; all [B, T, H]."""
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden))
