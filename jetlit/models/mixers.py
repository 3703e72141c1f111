"""From a configuration to the token mixer of a layer."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from jetlit.blocks import TokenMixer, build_block, get_block
from jetlit.blocks.attention import Attention
from jetlit.models.configuration import JetNemotronConfig

ATTENTION_BLOCKS = ("attn", "swa")


def inherited_settings(config: JetNemotronConfig, name: str) -> dict[str, Any]:
    """Returns the settings that a linear block takes from the model's attention where its own say nothing.

    They are heads, head size and biases; the JetBlock of the released checkpoints never has biases.
    """
    if name in ATTENTION_BLOCKS:
        return {}
    settings = {"num_heads": config.num_attention_heads, "head_dim": config.head_dim}
    if name != "jet":
        settings["qkv_bias"] = config.attention_bias
    known = inspect.signature(get_block(name)).parameters
    return {key: value for key, value in settings.items() if key in known}


def block_arguments(config: JetNemotronConfig, name: str) -> dict[str, Any]:
    """Returns every constructor argument of block `name` but hidden_size, as this configuration sets them."""
    if name in ATTENTION_BLOCKS:
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
        settings = inherited_settings(config, name)
        if "initializer_range" in inspect.signature(get_block(name)).parameters:
            settings["initializer_range"] = config.initializer_range
    return settings | config.block_config(name)


def build_mixer(config: JetNemotronConfig, name: str) -> TokenMixer:
    """Builds the token mixer `name` for a model of this configuration."""
    mixer = build_block(name, config.hidden_size, **block_arguments(config, name))
    attach_config(mixer, config)
    return mixer


def attach_config(mixer: nn.Module, config: JetNemotronConfig) -> None:
    """Lets attention follow the model's choice of attention implementation."""
    for module in mixer.modules():
        if isinstance(module, Attention):
            module.config = config
