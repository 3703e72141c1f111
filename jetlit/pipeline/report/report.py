"""The report of a run: report.html and report.md for people, report.json for programs, the same in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.files import check_folder, claim_folder, read_mapping, write_json, write_text
from jetlit.generation import GenerationEngine, measure_generation
from jetlit.generation.measurements import cached_measurement
from jetlit.generation.throughput import prefill_pieces
from jetlit.models import JetNemotronForCausalLM, load_model
from jetlit.models.loading import pick_device
from jetlit.pipeline.command_configs import ReportConfig
from jetlit.pipeline.report import figures
from jetlit.pipeline.report.candidates import candidate_figures
from jetlit.pipeline.report.html import report_page
from jetlit.pipeline.report.style import save_all
from jetlit.pipeline.report.tensorboard import loss_curves, write_tensorboard
from jetlit.pipeline.report.text import Sample, Stored, report_text
from jetlit.pipeline.stages import NAMES
from jetlit.results import Result, read_result, with_units
from jetlit.search.selection import Metrics
from jetlit.tasks import build_tasks, score_tasks

MODELS = ("teacher", "stage1", "stage2")
_PLACEMENT = (
    *("layer_evaluations", "naive_layer_evaluations", "budget", "full_attention", "sliding_window"),
    *("searched", "uniform"),
)


def report(config: ReportConfig) -> Result:
    """Score the run's models, let them write samples, and write the report.

    Raises:
        UserError: no stage has finished.
    """
    check_folder(config.run_dir)
    scores: dict[str, Metrics] = {}
    samples: list[Sample] = []
    for name in MODELS:
        folder = Path(config.run_dir) / name
        stored = read_result(folder)
        if stored is None:
            continue
        loss = Result.of(stored).metrics.get("val/loss")
        scores[name] = {} if loss is None else {"held_out_loss": loss}
        scores[name] |= _throughput(config, name, stored["hash"])
        model = load_model(folder / "model", device=config.device)
        tokenizer = load_tokenizer(str(folder / "model"))
        if config.tasks:
            scores[name] |= score_tasks(model, build_tasks(config.tasks, tokenizer))
        if name != "stage1":
            samples += [
                Sample(name, prompt, _continue(model, tokenizer, prompt, config.sample_tokens))
                for prompt in config.prompts or []
            ]
    write_report(Path(config.run_dir), scores, samples)
    metrics = {f"{name}/{key}": value for name, found in scores.items() for key, value in found.items()}
    return Result("report", config.values(), metrics)


def _throughput(config: ReportConfig, name: str, hash: str) -> Metrics:
    device = pick_device(config.device)
    # All in the dtype that is served: a fit's weights are kept in float32, a teacher's may be in bfloat16.
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    key = {"model": name, "hash": hash, "batch": config.batch, "context": config.context}

    def measure() -> dict[str, float]:
        model = load_model(Path(config.run_dir) / name / "model", dtype, config.device)
        return measure_generation(model, config.batch, config.context, prefill_chunk=prefill_pieces(config.batch))

    cache = Path(config.run_dir) / "measurements"
    found = cached_measurement(cache, key | {"device": device.type, "dtype": dtype}, measure)
    return {name: value for name, value in found.items() if name != "peak_memory_bytes"}


def _continue(model: JetNemotronForCausalLM, tokenizer: Any, prompt: str, tokens: int) -> str:
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(model.lm_head.weight.device)
    with torch.inference_mode():
        written = GenerationEngine(model, 1, ids.shape[1] + tokens).generate(ids, tokens)
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def write_report(
    run_dir: Path, scores: Mapping[str, Mapping[str, Any]] | None = None, samples: Sequence[Sample] = ()
) -> None:
    """Write report.html, report.md, report.json, figures and TensorBoard's files; unfinished stages are left out.

    Args:
        run_dir: folder of the run.
        scores: metrics of the run's models beside those in the stages' results, by model.
        samples: texts that the models wrote.

    Raises:
        UserError: no stage has finished.
    """
    scores = scores or {}
    stages = _stored(run_dir, [run_dir / stage for stage in NAMES])
    if not stages:
        raise UserError(f"{run_dir} holds no finished stage: run `jetlit postnas` first, or correct --run_dir.")
    claim_folder(run_dir)
    evaluations = _stored(run_dir, [run_dir / "eval", *sorted((run_dir / "eval").glob("*/"))])
    placement = read_mapping(run_dir / "placement/placement.json", *_PLACEMENT) if "placement" in stages else None
    results = {stage: Result.of(content) for stage, content in stages.items()}
    curves = {stage: lines for stage in stages if (lines := loss_curves(run_dir / stage / "tensorboard"))}
    own = {}
    if curves:
        own["report/losses.png"] = figures.losses(curves)
    losses = {name: results[name].metrics.get("val/loss") for name in MODELS if name in results}
    held_out = {name: loss for name, loss in losses.items() if loss is not None}
    if held_out:
        own["report/held_out.png"] = figures.held_out_bars(list(held_out), list(held_out.values()))
    save_all(own, run_dir)
    # The searches have written their own figures.
    searched = {} if placement is None else {"placement": figures.placement_figures(placement)}
    searched |= {stage: candidate_figures(results[stage]) for stage in ("blocks", "hardware") if stage in results}
    drawn = {f"{stage}/{name}": figure for stage, found in searched.items() for name, figure in found.items()} | own
    text = report_text(stages, evaluations, placement, scores, samples, drawn)
    write_text(run_dir / "report.md", text)
    # The page's tables can be sorted; figures of the same tables would repeat them.
    shown = {name: figure for name, figure in drawn.items() if not name.endswith("/table.png")}
    page = report_page(report_text(stages, evaluations, placement, scores, samples, shown), shown)
    write_text(run_dir / "report.html", page)
    values = {
        "stages": stages,
        "models": {name: with_units(found) for name, found in scores.items()},
        "samples": [vars(sample) for sample in samples],
        "evaluations": evaluations,
        "figures": sorted(drawn),
        "seconds": {"value": sum(stored["seconds"] for stored in stages.values()), "unit": "s"},
    }
    write_json(run_dir / "report.json", values)
    write_tensorboard(run_dir / "tensorboard", drawn, results, text)


def _stored(run: Path, folders: Sequence[Path]) -> Stored:
    found = {str(folder.relative_to(run)): read_result(folder) for folder in folders}
    return {name: result for name, result in found.items() if result is not None}
