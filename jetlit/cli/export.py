"""`jetlit export`."""

import time

import torch
from transformers import AutoModelForCausalLM

from jetlit.errors import UserError
from jetlit.models import load_model
from jetlit.models.export import export as write_model
from jetlit.results import metric, write_result


def export(
    run_dir: str = "runs/quickstart",
    model: str = "${run_dir}/stage2/model",
    out_dir: str = "${run_dir}/export",
    tokenizer: str | None = None,
    format: str = "jet_nemotron",
    seed: int = 0,
    hash: str | None = None,
) -> None:
    """Writes a Hugging Face directory (safetensors, tokenizer) that AutoModelForCausalLM loads after `import jetlit`.

    The directory is loaded again and compared with the model before the command ends.

    Args:
        run_dir: folder of the whole run.
        model: folder of the model.
        out_dir: the directory to write; an existing one is replaced.
        tokenizer: folder of the tokenizer; by default the model's.
        format: "jet_nemotron".
        seed: of the tokens that the comparison runs on.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    source = load_model(model).eval()
    write_model(source, tokenizer or model, out_dir, format)
    written = AutoModelForCausalLM.from_pretrained(out_dir).eval()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(source.config.vocab_size, (1, 16), generator=generator)
    with torch.inference_mode():
        difference = float((written(ids).logits.float() - source(ids).logits.float()).abs().max())
    if difference != 0.0:
        raise UserError(
            f"The model written to {out_dir} differs from {model} (logits by {difference:.2g}): do not use it, "
            "and export again."
        )
    write_result(
        out_dir,
        stage="export",
        config={"run_dir": run_dir, "model": model, "out_dir": out_dir, "tokenizer": tokenizer, "format": format},
        metrics={
            "parameters": metric(sum(parameter.numel() for parameter in source.parameters()), "parameters"),
            "largest_logit_difference": metric(difference, "1"),
        },
        decision={"model": "."},
        seed=seed,
        seconds=time.monotonic() - begun,
        hash=hash,
    )
