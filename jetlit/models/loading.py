"""The one loader of decoders: teachers of any registered family, students and exports."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from jetlit.errors import UserError
from jetlit.models.assembly import copied_tensors, empty_model, fill, is_tied
from jetlit.models.checkpoint_files import check_loading, first_line
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.families import FAMILIES
from jetlit.models.modeling import JetNemotronForCausalLM


def load_model(
    source: str | Path | PreTrainedModel,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
) -> JetNemotronForCausalLM:
    """Load a teacher of a registered family, a student, or an export.

    The model has the checkpoint's logits and parameter names. Only safetensors are read, and remote code is never run.

    Args:
        source: folder or hub name of a checkpoint, or a loaded model (copied, unless it is a `JetNemotronForCausalLM`).
        dtype: dtype of the weights, such as "bfloat16"; None keeps the checkpoint's.
        device: device to load onto; "auto" is the GPU if there is one, None leaves the model where it is.

    Raises:
        UserError: there is no such checkpoint, dtype or device, the family is not supported, or the tensors do not fit
            the configuration.
    """
    dtype = None if dtype is None else pick_dtype(dtype)
    if isinstance(source, JetNemotronForCausalLM):
        model = source if dtype is None else nn.Module.to(source, dtype)
    elif isinstance(source, PreTrainedModel):
        model = _copy_model(source, dtype)
    else:
        config = convert_config(read_config(str(source)))
        model, info = JetNemotronForCausalLM.from_pretrained(
            str(source), config=config, dtype=dtype or "auto", output_loading_info=True
        )
        check_loading(str(source), info)  # also a head that transformers would make up
    return model if device is None else nn.Module.to(model, pick_device(device))


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device of a name, "auto" being the GPU if there is one; raise UserError if there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device {name!r}: use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("This machine has no CUDA device: use --device cpu.")
    return device


def pick_dtype(name: str | torch.dtype) -> torch.dtype:
    """Return the floating-point dtype of a name, such as "bfloat16"; raise UserError if there is none."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"There is no floating-point dtype {name!r}: use float32, bfloat16 or float16.")
    return dtype


def convert_config(config: PreTrainedConfig) -> JetNemotronConfig:
    """Return the `JetNemotronConfig` of a teacher.

    Raises:
        UserError: its family is not registered, its weights are quantized, or a value does not make sense.
    """
    if isinstance(config, JetNemotronConfig):
        return config
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        values = quantization if isinstance(quantization, dict) else quantization.to_dict()
        raise UserError(
            f"The teacher's weights are quantized ({values.get('quant_method')}): use its plain weights, or save it "
            "after transformers' model.dequantize()."
        )
    if config.model_type not in FAMILIES:
        raise UserError(
            f"A teacher of type {config.model_type!r} is not supported: use a checkpoint of type "
            f"{', '.join([*FAMILIES, JetNemotronConfig.model_type])}, or register its family."
        )
    return JetNemotronConfig(**FAMILIES[config.model_type](config))


def read_config(path: str) -> PreTrainedConfig:
    """Read a checkpoint's configuration from a folder or the hub; raise UserError if none can be read."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"There is no teacher to load at {path} ({first_line(error)}): give a folder with config.json and "
            "safetensors, or the name of a checkpoint on the hub."
        ) from error
    except Exception as error:  # transformers lets anything through that a wrong value leads to
        raise UserError(f"{path}/config.json does not make sense ({first_line(error)}): correct it.") from error


def _copy_model(model: PreTrainedModel, dtype: torch.dtype | None) -> JetNemotronForCausalLM:
    config = convert_config(model.config)
    config.dtype = dtype or model.dtype
    config.tie_word_embeddings = is_tied(model)
    copied = empty_model(config)
    fill(copied, copied_tensors(model), f"the {model.config.model_type} model")
    copied.config._attn_implementation = "sdpa"
    if dtype is not None:
        copied = nn.Module.to(copied, dtype)
    return copied.train(model.training)
