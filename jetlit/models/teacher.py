"""Teachers: checkpoints of the Llama, Qwen2 and Qwen3 families as the hybrid's own decoder with full attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from jetlit.errors import UserError
from jetlit.models.assembly import copied_tensors, empty_model, fill
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.modeling import JetNemotronForCausalLM


def load_teacher(
    path_or_model: str | PreTrainedModel, dtype: torch.dtype | str | None = None
) -> JetNemotronForCausalLM:
    """Loads a pre-trained decoder as the hybrid's own, with the same logits.

    Weights keep their names, so a checkpoint is read straight into the new model. Only safetensors are read and remote
    code is never run.

    Args:
        path_or_model: a folder or hub name of a Llama, Qwen2, Qwen3 or Jet-Nemotron checkpoint, or a loaded model of
            one of them (which is copied, unless it is ours already).
        dtype: of the weights; None keeps that of the checkpoint.

    Raises:
        UserError: there is no such checkpoint, it is of another family, or its tensors do not fit its configuration.
    """
    if isinstance(path_or_model, JetNemotronForCausalLM):
        return path_or_model if dtype is None else _cast(path_or_model, dtype)
    if isinstance(path_or_model, PreTrainedModel):
        return _copy_model(path_or_model, dtype)
    config = convert_config(read_config(path_or_model))
    return JetNemotronForCausalLM.from_pretrained(path_or_model, config=config, dtype=dtype or "auto")


def convert_config(config: PreTrainedConfig) -> JetNemotronConfig:
    """Returns the hybrid's configuration of a teacher of a supported family.

    Raises:
        UserError: the family is another one.
    """
    if isinstance(config, JetNemotronConfig):
        return config
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"A teacher of type {config.model_type!r} is not supported: use a Llama, Qwen2, Qwen3 or Jet-Nemotron "
            f"checkpoint ({', '.join(_FAMILIES)}, {JetNemotronConfig.model_type})."
        )
    return JetNemotronConfig(**(_common(config) | family(config)))


# What the three families call by the same name.
_SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)


def _common(config: PreTrainedConfig) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in _SHARED_KEYS}
    values["rope_parameters"] = dict(config.rope_parameters)  # type: ignore[attr-defined]
    values["head_dim"] = getattr(config, "head_dim", None)
    return values


def _llama(config: Any) -> dict[str, Any]:
    return {
        "attention_bias": config.attention_bias,
        "output_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }


def _qwen2(config: Any) -> dict[str, Any]:
    return {"attention_bias": True} | _sliding_layers(config)


def _qwen3(config: Any) -> dict[str, Any]:
    biases = {"attention_bias": config.attention_bias, "output_bias": config.attention_bias}
    return biases | {"qk_norm": True} | _sliding_layers(config)


def _sliding_layers(config: Any) -> dict[str, Any]:
    names = {"full_attention": "attn", "sliding_attention": "swa"}
    layers = [names[layer] for layer in config.layer_types]
    if "swa" not in layers:
        return {}
    return {"layer_types": layers, "efficient_attention_config": {"swa": {"window_size": config.sliding_window}}}


_FAMILIES: dict[str, Callable[[Any], dict[str, Any]]] = {"llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3}


def read_config(path: str) -> PreTrainedConfig:
    """Reads a checkpoint's configuration from a folder or the hub; raises UserError when there is none."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"There is no teacher to load at {path} ({reason}): give a folder with config.json and safetensors, "
            "or the name of a checkpoint on the hub."
        ) from error


def _copy_model(model: PreTrainedModel, dtype: torch.dtype | str | None) -> JetNemotronForCausalLM:
    config = convert_config(model.config)
    config.dtype = dtype or model.dtype
    copied = empty_model(config)
    fill(copied, copied_tensors(model), f"the {model.config.model_type} model")
    copied.config._attn_implementation = "sdpa"
    if dtype is not None:
        copied = _cast(copied, dtype)
    return copied.train(model.training)


def _cast(model: JetNemotronForCausalLM, dtype: torch.dtype | str) -> JetNemotronForCausalLM:
    wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(wanted, torch.dtype):
        raise UserError(f"There is no dtype {dtype!r}: use float32, bfloat16 or float16.")
    return nn.Module.to(model, wanted)
