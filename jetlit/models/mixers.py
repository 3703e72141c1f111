"""From a model's configuration to the token mixer of a layer."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from jetlit.blocks import Attention, TokenMixer, build_block, get_block, is_attention
from jetlit.models.configuration import JetNemotronConfig


def inherited_settings(config: JetNemotronConfig, name: str) -> dict[str, Any]:
    """Return what a linear block takes from the attention by default: heads, head size and whether there are biases."""
    if is_attention(name):
        return {}
    settings: dict[str, Any] = {"num_heads": config.num_attention_heads, "head_dim": config.head_dim}
    if get_block(name).inherits_bias:
        settings["qkv_bias"] = config.attention_bias
    return _accepted(name, settings)


def block_arguments(config: JetNemotronConfig, name: str) -> dict[str, Any]:
    """Return every setting of block `name` but hidden_size."""
    if is_attention(name):
        settings = {
            "num_heads": config.num_attention_heads,
            "num_kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "qkv_bias": config.attention_bias,
            "output_bias": config.output_bias,
            "qk_norm": config.qk_norm,
            "norm_eps": config.rms_norm_eps,
            "dropout": config.attention_dropout,
        }
    else:
        settings = inherited_settings(config, name) | {"initializer_range": config.initializer_range}
    return _accepted(name, settings) | config.block_config(name)


def build_mixer(config: JetNemotronConfig, name: str) -> TokenMixer:
    """Build the token mixer `name` for a model of this configuration."""
    mixer = build_block(name, config.hidden_size, **block_arguments(config, name))
    attach_config(mixer, config)
    return mixer


def attach_config(mixer: nn.Module, config: JetNemotronConfig) -> None:
    """Let attention follow the model's choice of attention implementation."""
    for module in mixer.modules():
        if isinstance(module, Attention):
            module.config = config


def _accepted(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return those settings that block `name` has."""
    known = inspect.signature(get_block(name)).parameters
    return {key: value for key, value in settings.items() if key in known}
