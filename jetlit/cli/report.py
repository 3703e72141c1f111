"""`jetlit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jetlit_data.tokenizer import load_tokenizer

from jetlit.cli.scoring import build_tasks, task_scores
from jetlit.generation import GenerationEngine, measure_generation
from jetlit.generation.measurements import cached_measurement
from jetlit.generation.throughput import prefill_pieces
from jetlit.models import JetNemotronForCausalLM
from jetlit.models.loading import load_model, pick_device
from jetlit.pipeline.report.report import Sample, write_report
from jetlit.results import metric, read_result
from jetlit.search.candidates import Metrics

_MODELS = ("teacher", "stage1", "stage2")


def report(
    run_dir: str = "runs/quickstart",
    tasks: list[dict[str, Any]] | None = None,
    prompts: list[str] | None = None,
    sample_tokens: int = 96,
    batch: int = 8,
    context: int = 512,
    device: str = "auto",
) -> None:
    """Writes the report of a run: report.md, report.json, figures and TensorBoard's files.

    Args:
        run_dir: folder of the whole run.
        tasks: what teacher and students are scored on, see `jetlit.tasks.build_task`.
        prompts: what the teacher and the last student continue.
        sample_tokens: tokens that they add.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which it is measured.
        device: "auto", "cpu" or "cuda".
    """
    folder = Path(run_dir)
    scores: dict[str, Metrics] = {}
    samples: list[Sample] = []
    for name in _MODELS:
        result = read_result(folder / name)
        if result is None:
            continue
        model = load_model(folder / name / "model", device=device)
        scores[name] = _loss(result) | _throughput(folder, name, result["hash"], device, batch, context)
        if tasks:
            scores[name] |= task_scores(model, build_tasks(tasks, folder / name / "model"))
        if name != "stage1":
            samples += [
                _continue(model, folder / name / "model", name, prompt, sample_tokens) for prompt in prompts or []
            ]
    write_report(folder, scores, samples)


def _loss(result: dict[str, Any]) -> Metrics:
    loss = result["metrics"].get("val/loss")
    return {} if loss is None else {"held_out_loss": loss}


def _throughput(folder: Path, name: str, hash: str, device: str, batch: int, context: int) -> Metrics:
    where = pick_device(device)
    # All alike in the type that is served: a fit's weights are kept in float32, a teacher's may be in bfloat16.
    dtype = "bfloat16" if where.type == "cuda" else "float32"
    config = {"model": name, "hash": hash, "batch": batch, "context": context, "device": where.type, "dtype": dtype}

    def measure() -> dict[str, float]:
        model = load_model(folder / name / "model", dtype, device)
        return measure_generation(model, batch, context, prefill_chunk=prefill_pieces(batch))

    found = cached_measurement(folder / "measurements", config, measure)
    units = {name: "tokens/s" if name.endswith("_per_s") else "B" for name in found}
    return {name: metric(value, units[name]) for name, value in found.items() if name != "peak_memory_bytes"}


def _continue(model: JetNemotronForCausalLM, folder: Path, name: str, prompt: str, tokens: int) -> Sample:
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(model.lm_head.weight.device)
    with torch.inference_mode():
        written = GenerationEngine(model, 1, ids.shape[1] + tokens).generate(ids, tokens)
    return Sample(name, prompt, str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)))
