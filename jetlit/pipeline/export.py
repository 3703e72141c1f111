"""Stage `export`: the last student as a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from jetlit.errors import UserError
from jetlit.files import atomic_folder, check_replaceable
from jetlit.models import export as writing
from jetlit.models import load_model
from jetlit.once import keep_marker
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.values import Seed


@dataclass
class ExportConfig(StageConfig):
    """Write a Hugging Face directory (safetensors, tokenizer) that AutoModelForCausalLM loads after `import jetlit`.

    The files are loaded again and compared with the model before they take the directory's place.

    Attributes:
        run_dir: folder of the whole run.
        model: folder of the model.
        out_dir: the directory to write; an existing one is replaced.
        tokenizer: folder of the tokenizer; by default the model's.
        format: "jet_nemotron".
        seed: seed of the tokens that the comparison runs on.
    """

    run_dir: str = "runs/quickstart"
    model: str = "${run_dir}/stage2/model"
    out_dir: str = "${run_dir}/export"
    tokenizer: str | None = None
    format: str = "jet_nemotron"
    seed: Seed = 0


def export(config: ExportConfig) -> Result:
    """Write the model and check that what was written has the same logits.

    Raises:
        UserError: they differ.
    """
    check_replaceable(config.out_dir, config.model)
    source = load_model(config.model).eval()
    with atomic_folder(config.out_dir) as written:
        writing.export(source, config.tokenizer or config.model, written, config.format)
        difference = _largest_difference(source, AutoModelForCausalLM.from_pretrained(written).eval(), config.seed)
        if difference != 0.0:
            raise UserError(
                f"The exported model would differ from {config.model} (logits by {difference:.2g}), so that "
                f"{config.out_dir} was not written: report this with the model's config.json."
            )
        keep_marker(config.out_dir, written)
    parameters = sum(parameter.numel() for parameter in source.parameters())
    metrics = {"parameters": parameters, "largest_logit_difference": difference}
    return Result("export", config.values(), metrics, {"model": "."}, config.seed)


@torch.inference_mode()
def _largest_difference(one: Any, other: Any, seed: int) -> float:
    """Return the largest difference of two models' logits on random tokens."""
    ids = torch.randint(one.config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(seed))
    return float((one(ids).logits.float() - other(ids).logits.float()).abs().max())
