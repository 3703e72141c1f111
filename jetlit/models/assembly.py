"""Build a model around existing tensors, without initializing or allocating anything twice."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from jetlit.errors import UserError
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.mixers import attach_config
from jetlit.models.modeling import HybridRotaryEmbedding, JetNemotronForCausalLM


def empty_model(config: JetNemotronConfig) -> JetNemotronForCausalLM:
    """Return a model on the meta device, which takes no memory until `fill` gives it its tensors."""
    with torch.device("meta"):
        return JetNemotronForCausalLM(config)


def count_parameters(config: JetNemotronConfig) -> int:
    """Return the number of a model's parameters; a tied embedding counts once."""
    return empty_model(config).num_parameters()


def replace_mixers(model: JetNemotronForCausalLM, mixer: Callable[[int], nn.Module]) -> None:
    """Set the token mixer of every layer to `mixer(index)`."""
    for index, layer in enumerate(model.model.layers):
        layer.self_attn = mixer(index)
        attach_config(layer.self_attn, model.config)


def fill(model: JetNemotronForCausalLM, tensors: dict[str, torch.Tensor], origin: str) -> None:
    """Give a model from `empty_model` tensors by name, which become its parameters without a copy.

    Token mixers on a real device keep their tensors. Messages name the `origin` of the tensors.

    Raises:
        UserError: tensors are missing, unexpected or of the wrong shape.
    """
    device = next(iter(tensors.values())).device
    try:
        _, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise UserError(f"The tensors of {origin} do not fit its configuration: {reason}.") from None
    model.tie_weights()
    # Its buffers are in no checkpoint.
    model.model.rotary = HybridRotaryEmbedding(model.config).to(device)  # type: ignore[arg-type]
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing or unexpected:
        what = f"lacks {', '.join(missing[:3])}" if missing else f"has {', '.join(unexpected[:3])} too many"
        raise UserError(f"{origin} does not fit its configuration: it {what}.")
    model.requires_grad_(True)


def assemble(
    config: JetNemotronConfig, source: JetNemotronForCausalLM, mixer: Callable[[int], nn.Module]
) -> JetNemotronForCausalLM:
    """Return a new model with copies of `source`'s embedding, MLPs, norms and head, and the token mixer of each index.

    The configurations may differ in the token mixers alone.

    Raises:
        UserError: the source is quantized.
    """
    config.tie_word_embeddings = is_tied(source)
    model = empty_model(config)
    replace_mixers(model, mixer)
    fill(model, copied_tensors(source, mixers=False), "the teacher")
    model.config._attn_implementation = source.config._attn_implementation
    if source.generation_config is not None:
        model.generation_config = copy.deepcopy(source.generation_config)
    return model.train(source.training)


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether the head is the embedding, whatever the configuration says: a checkpoint may hold both."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def copied_tensors(model: PreTrainedModel, *, mixers: bool = True) -> dict[str, torch.Tensor]:
    """Return copies of a model's tensors, a tied head once, with or without the token mixers.

    Raises:
        UserError: the model is quantized.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError("The teacher is quantized, and new blocks start from plain weights: load it unquantized.")
    skipped = {"lm_head.weight"} if is_tied(model) else set()
    return {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name not in skipped and (mixers or ".self_attn." not in name)
    }
