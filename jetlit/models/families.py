"""Teacher families: how a transformers configuration becomes ours.

A family fits when its weights have the names and its layers the computation of Llama: pre-norm residuals, a gated MLP,
rotary positions, and optionally biases or RMSNorm on queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from jetlit.models.configuration import JetNemotronConfig
from jetlit.registry import Registry

FAMILIES: Registry[Callable[[Any], dict[str, Any]]] = Registry("teacher family", "jetlit.families")
register_family = FAMILIES.register
"""Decorate a function from a configuration of this `model_type` to the keyword arguments of `JetNemotronConfig`."""


def shared_keys(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the values of the keys that a configuration and ours call by the same name, but the layer types."""
    names = [*JetNemotronConfig.__annotations__, "dtype"]
    foreign = ("layer_types", "keys_to_ignore_at_inference", "auto_map")
    return {name: getattr(config, name) for name in names if name not in foreign and hasattr(config, name)}


def sliding_layers(config: Any) -> dict[str, Any]:
    """Return the keys of a configuration's sliding windows; none if every layer has full attention."""
    if "sliding_attention" not in config.layer_types:
        return {}
    names = {"full_attention": "attn", "sliding_attention": "swa"}
    return {
        "layer_types": [names[layer] for layer in config.layer_types],
        "efficient_attention_config": {"swa": {"window_size": config.sliding_window}},
    }


@register_family("llama")
def llama(config: Any) -> dict[str, Any]:
    """Llama, and what follows it: SmolLM2, TinyLlama, Yi."""
    return shared_keys(config) | {"output_bias": config.attention_bias}


@register_family("qwen2")
def qwen2(config: Any) -> dict[str, Any]:
    """Qwen2 and Qwen2.5: biases on queries, keys and values."""
    return shared_keys(config) | {"attention_bias": True} | sliding_layers(config)


@register_family("qwen3")
def qwen3(config: Any) -> dict[str, Any]:
    """Qwen3: RMSNorm on queries and keys."""
    return shared_keys(config) | {"output_bias": config.attention_bias, "qk_norm": True} | sliding_layers(config)
