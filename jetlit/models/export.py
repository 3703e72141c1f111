"""Write a model as a Hugging Face directory in the released format; convert a teacher to one."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from jetlit_data.tokenizer import load_tokenizer
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.files import atomic_folder, check_replaceable
from jetlit.models.architecture import Architecture
from jetlit.models.conversion import hybridize
from jetlit.models.loading import load_model
from jetlit.models.modeling import JetNemotronForCausalLM

logger = logging.getLogger("jetlit")


def export(
    model: JetNemotronForCausalLM | str | Path,
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    out_dir: str | Path,
    format: str = "jet_nemotron",
) -> Path:
    """Write config.json, safetensors and tokenizer to a directory that appears whole or not at all.

    `AutoModelForCausalLM.from_pretrained` loads it after `import jetlit`, or with `trust_remote_code=True`: the Python
    files beside the weights import jetlit. The released Jet-Nemotron code loads it too, in place of those files, unless
    the model uses blocks that code lacks, which is logged.

    Args:
        model: a model, or the folder of a checkpoint.
        tokenizer: a tokenizer, or a folder with one; None writes none.
        out_dir: the directory, which is returned; an existing one is replaced.
        format: the only one.

    Raises:
        UserError: the format is unknown, there is no checkpoint or tokenizer, or the directory cannot be written.
    """
    if format != "jet_nemotron":
        raise UserError(f"There is no export format {format!r}: use 'jet_nemotron'.")
    check_replaceable(out_dir, *(source for source in (model, tokenizer) if isinstance(source, str | Path)))
    if not isinstance(model, JetNemotronForCausalLM):
        model = load_model(model)
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer))
    if not model.config.is_released_format:
        logger.info("Only jetlit can load this model: the released code lacks one of its blocks or settings.")
    with atomic_folder(out_dir) as written:
        model.save_pretrained(written)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer.save_pretrained(written)
    return Path(out_dir)


def convert(
    teacher: str,
    architecture: Architecture | str | Path,
    out_dir: str | Path,
    *,
    block: str | None = None,
    block_config: dict | None = None,
    dtype: torch.dtype | str | None = None,
) -> Path:
    """Convert a teacher's checkpoint to a hybrid and write it, with the teacher's tokenizer if it has one.

    Args:
        teacher: folder or hub name.
        architecture: an architecture, or the JSON file of one.
        out_dir: the directory, which is returned; an existing one is replaced.
        block: with `block_config`, replaces the architecture's block in every layer that is not attention.
        block_config: arguments of `block`.
        dtype: dtype of the weights; None keeps the teacher's.

    Raises:
        UserError: the teacher, the architecture or the block does not fit.
    """
    check_replaceable(out_dir, teacher)
    if not isinstance(architecture, Architecture):
        architecture = Architecture.load(architecture)
    if block is not None:
        architecture = architecture.with_block(block, block_config)
    model = hybridize(load_model(teacher, dtype), architecture)
    try:
        tokenizer = load_tokenizer(teacher)
    except UserError as error:
        logger.info("No tokenizer is written: %s", error)
        tokenizer = None
    return export(model, tokenizer, out_dir)
