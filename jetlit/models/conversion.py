"""Convert a full-attention teacher to a hybrid whose new token mixers start from the teacher's attention."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from jetlit.blocks import get_block, is_attention
from jetlit.blocks.attention import Attention
from jetlit.blocks.base import LinearMixer
from jetlit.errors import UserError
from jetlit.models.architecture import Architecture
from jetlit.models.assembly import assemble
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.mixers import build_mixer, inherited_settings
from jetlit.models.modeling import JetNemotronForCausalLM


def hybridize(
    teacher: JetNemotronForCausalLM,
    architecture: Architecture,
    student: JetNemotronForCausalLM | None = None,
    inherit: bool = True,
) -> JetNemotronForCausalLM:
    """Replace a teacher's attention by the blocks of an architecture (paper section 2.2).

    Every block starts from the teacher's attention in its layer (`TokenMixer.from_attention`); all else is copied,
    device and dtype included.
    Settings that the architecture leaves open (heads, head size, biases) come from the attention.

    Args:
        teacher: a model with attention in every layer that is to be replaced; it does not change.
        architecture: a block for each layer.
        student: a trained hybrid of this teacher, whose blocks are copied where they are those of the architecture.
        inherit: False leaves the linear blocks' projections random, to measure what inheriting is worth.

    Raises:
        UserError: the architecture does not fit the teacher.
    """
    config = hybrid_config(teacher.config, architecture)

    def mixer(index: int) -> nn.Module:
        name = architecture.layer_types[index]
        if student is not None and student.config.layer_types[index] == name != "attn":  # type: ignore[index]
            if student.config.block_config(name) != config.block_config(name):
                raise UserError(f"The student's {name} has other settings than the architecture's: use one of them.")
            return copy.deepcopy(student.model.layers[index].self_attn)
        if not inherit and not is_attention(name):
            like = teacher.lm_head.weight
            with torch.device(like.device), torch.no_grad():
                block = cast(LinearMixer, build_mixer(config, name)).to(like.dtype)
                block.after_inheriting()  # its other parameters start as if it had inherited
            return block
        return convert_mixer(teacher, index, name, config)

    return assemble(config, teacher, mixer)


def hybrid_config(config: JetNemotronConfig, architecture: Architecture) -> JetNemotronConfig:
    """Return a copy of `config` with the architecture's layers and complete block settings.

    Raises:
        UserError: the architecture does not fit the configuration.
    """
    architecture.validate(config)
    used = sorted(set(architecture.layer_types) - {"attn"})
    settings = {name: inherited_settings(config, name) | architecture.block_configs.get(name, {}) for name in used}
    layers = {"layer_types": list(architecture.layer_types), "efficient_attention_config": settings}
    return JetNemotronConfig.from_dict(config.to_dict() | layers)


def convert_mixer(teacher: JetNemotronForCausalLM, index: int, name: str, config: JetNemotronConfig) -> nn.Module:
    """Create block `name` from the attention in layer `index` of the teacher.

    Raises:
        UserError: that layer of the teacher is not attention, or it is and its window would be lost.
    """
    source = teacher.model.layers[index].self_attn
    if not isinstance(source, Attention):
        if teacher.config.layer_types[index] == name:  # type: ignore[index]
            return copy.deepcopy(source)
        raise UserError(
            f"Layer {index} of the teacher is {type(source).__name__}, not attention, so {name!r} cannot start from "
            "it: hybridize the full-attention teacher."
        )
    if source.window_size is not None and get_block(name).mask_kind == "causal":
        raise UserError(
            f"Layer {index} of the teacher attends to the last {source.window_size} tokens, and {name!r} to all, so it "
            f"would compute something else: use 'swa' with window_size {source.window_size} there, or a linear block."
        )
    return get_block(name).from_attention(source, **config.block_config(name))


def freeze_all_but_mixers(model: JetNemotronForCausalLM) -> None:
    """Freeze embeddings, MLPs, norms and head, so that only the token mixers learn (stage 1, super network)."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.requires_grad_(True)
