"""Stage `export`: the last student as a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from jetlit.errors import UserError
from jetlit.models import export as writing
from jetlit.models import load_model
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result


@dataclass
class ExportConfig(StageConfig):
    """Write a Hugging Face directory (safetensors, tokenizer) that AutoModelForCausalLM loads after `import jetlit`.

    The directory is loaded again and compared with the model before the command ends.

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
    seed: int = 0


def export(config: ExportConfig) -> Result:
    """Write the model and check that what was written has the same logits.

    Raises:
        UserError: they differ.
    """
    source = load_model(config.model).eval()
    writing.export(source, config.tokenizer or config.model, config.out_dir, config.format)
    written = AutoModelForCausalLM.from_pretrained(config.out_dir).eval()
    generator = torch.Generator().manual_seed(config.seed)
    ids = torch.randint(source.config.vocab_size, (1, 16), generator=generator)
    with torch.inference_mode():
        difference = float((written(ids).logits.float() - source(ids).logits.float()).abs().max())
    if difference != 0.0:
        raise UserError(
            f"The model written to {config.out_dir} differs from {config.model} (logits by {difference:.2g}): do not "
            "use it, and export again."
        )
    parameters = sum(parameter.numel() for parameter in source.parameters())
    metrics = {"parameters": parameters, "largest_logit_difference": difference}
    return Result("export", config.values(), metrics, {"model": "."}, config.seed)
