"""The report of a run: report.md for people, report.json for programs, the same in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jetlit.errors import UserError
from jetlit.files import read_json, write_json, write_text
from jetlit.pipeline.report import figures
from jetlit.pipeline.report.curves import Curve, loss_curves
from jetlit.pipeline.report.searches import (
    block_figures,
    block_markdown,
    hardware_figures,
    hardware_markdown,
    placement_figures,
    save_figures,
)
from jetlit.pipeline.report.style import compact
from jetlit.pipeline.report.tables import evaluation_table, markdown
from jetlit.pipeline.report.tensorboard import write_tensorboard
from jetlit.results import read_result

STAGES = ("data", "teacher", "supernet", "placement", "blocks", "hardware", "stage1", "stage2", "export")
_FITS = ("teacher", "supernet", "stage1", "stage2")
_MODELS = ("teacher", "stage1", "stage2")


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        model: which one.
        prompt: what it was given.
        text: what it added.
    """

    model: str
    prompt: str
    text: str


@dataclass
class RunContent:
    """Everything that a report is made of.

    Attributes:
        folder: of the run.
        results: result.json of every finished stage, in order.
        placement: placement.json, or None.
        curves: losses of every fit.
        scores: metrics of the run's models, by model (see `metric`).
        samples: texts that the models wrote.
        evaluations: result.json of every `jetlit eval` in the run, by folder.
        drawn: figures by path relative to `folder`.
    """

    folder: Path
    results: dict[str, dict[str, Any]]
    placement: dict[str, Any] | None
    curves: dict[str, dict[str, Curve]]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    samples: Sequence[Sample]
    evaluations: dict[str, dict[str, Any]]
    drawn: dict[str, Figure] = field(default_factory=dict)


def write_report(
    run_dir: Path,
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    samples: Sequence[Sample] = (),
) -> None:
    """Writes report.md, report.json, figures and TensorBoard's files of a run; stages not yet finished are left out.

    Args:
        run_dir: folder of the run.
        scores: metrics of the run's models beside those in the stages' results, by model.
        samples: texts that the models wrote.

    Raises:
        UserError: no stage has finished.
    """
    content = _gather(run_dir, scores or {}, samples)
    if not content.results:
        raise UserError(f"{run_dir} holds no finished stage: run `jetlit postnas` first, or correct --run_dir.")
    _draw(content)
    text = report_text(content)
    # The searches wrote their own figures.
    own = {name: figure for name, figure in content.drawn.items() if name.startswith("report/")}
    save_figures(own, run_dir)
    write_text(run_dir / "report.md", text)
    write_json(run_dir / "report.json", report_values(content))
    write_tensorboard(run_dir / "tensorboard", content.drawn, content.results, text)


def _gather(
    run_dir: Path, scores: Mapping[str, Mapping[str, Mapping[str, Any]]], samples: Sequence[Sample]
) -> RunContent:
    found = {stage: read_result(run_dir / stage) for stage in STAGES}
    results = {stage: result for stage, result in found.items() if result is not None}
    placement = read_json(run_dir / "placement/placement.json") if "placement" in results else None
    curves = {stage: loss_curves(run_dir / stage / "tensorboard") for stage in _FITS if stage in results}
    drawn_curves = {stage: lines for stage, lines in curves.items() if lines}
    return RunContent(run_dir, results, placement, drawn_curves, scores, samples, _evaluations(run_dir))


def _evaluations(run_dir: Path) -> dict[str, dict[str, Any]]:
    folders = [run_dir / "eval", *sorted((run_dir / "eval").glob("*/"))]
    found = {str(folder.relative_to(run_dir)): read_result(folder) for folder in folders}
    return {folder: result for folder, result in found.items() if result is not None}


def _draw(content: RunContent) -> None:
    results, drawn = content.results, content.drawn
    if content.placement is not None:
        drawn |= _under("placement", placement_figures(content.placement))
    if "blocks" in results:
        drawn |= _under("blocks", block_figures(results["blocks"]))
    if "hardware" in results:
        drawn |= _under("hardware", hardware_figures(results["hardware"]))
    if content.curves:
        drawn["report/losses.png"] = figures.losses(content.curves)
    held_out = {name: _value(results, name, "val/loss") for name in _MODELS}
    known = {name: value for name, value in held_out.items() if value is not None}
    if known:
        drawn["report/held_out.png"] = figures.held_out_bars(list(known), list(known.values()))


def _under(folder: str, drawn: Mapping[str, Figure]) -> dict[str, Figure]:
    return {f"{folder}/{name}": figure for name, figure in drawn.items()}


def _value(results: Mapping[str, Any], stage: str, name: str) -> float | None:
    return results.get(stage, {}).get("metrics", {}).get(name, {}).get("value")


def report_values(content: RunContent) -> dict[str, Any]:
    """Returns report.json: every stage's result, the models' scores, samples and figures."""
    return {
        "stages": content.results,
        "models": {name: dict(found) for name, found in content.scores.items()},
        "samples": [vars(sample) for sample in content.samples],
        "evaluations": content.evaluations,
        "figures": sorted(content.drawn),
        "seconds": {
            "value": sum(result["seconds"] for result in content.results.values()),
            "unit": "s",
        },
    }


def report_text(content: RunContent) -> str:
    """Returns report.md."""
    sections: list[tuple[str, Callable[[RunContent], str]]] = [
        ("Stages", _stages),
        ("Teacher and students", _models),
        ("Evaluation", _evaluation),
        ("Placement of full attention", _placement),
        ("Linear blocks", _blocks),
        ("Shapes under one state size", _hardware),
        ("Training", _training),
        ("Texts", _texts),
        ("Machine and versions", _machine),
        ("All numbers", _numbers),
    ]
    parts = ["# Report of a PostNAS run\n"]
    for title, write in sections:
        text = write(content)
        if text:
            parts.append(f"## {title}\n\n{text}")
    return "\n".join(parts)


def _figure(content: RunContent, name: str, what: str) -> str:
    return f"![{what}]({name})\n" if name in content.drawn else ""


def _stages(content: RunContent) -> str:
    rows = []
    for stage, result in content.results.items():
        seed = "-" if result["seed"] is None else str(result["seed"])
        rows.append([stage, _decision(stage, result), f"{result['seconds']:.1f}", seed, result["hash"][:12]])
    total = sum(result["seconds"] for result in content.results.values())
    return markdown(["stage", "decision", "seconds", "seed", "hash"], rows, texts=2) + f"\n{total:.0f} s in all.\n"


def _decision(stage: str, result: Mapping[str, Any]) -> str:
    decision = result["decision"]
    if stage == "placement":
        window = decision["sliding_window"]
        return f"full attention in layers {decision['full_attention']}" + (f", windows in {window}" if window else "")
    if stage == "blocks":
        return f"block {decision['block']}"
    if stage == "hardware":
        return f"{decision['block']} {decision['row']}"
    return ", ".join(f"{key}: {value}" for key, value in decision.items()) if isinstance(decision, dict) else ""


def _models(content: RunContent) -> str:
    scores = content.scores
    parts = []
    teacher = scores.get("teacher", {})
    for name, found in teacher.items():
        task, _, last = name.rpartition("/")
        if last == "chance" and f"{task}/accuracy" in teacher:
            accuracy = teacher[f"{task}/accuracy"]["value"]
            parts.append(f"- {task}: the teacher is right in {accuracy:.1%}, chance is {found['value']:.1%}.")
    text = "\n".join(parts) + "\n\n" if parts else ""
    names = [name for name in scores if scores[name]]
    if names:
        keys = list(dict.fromkeys(key for name in names for key in scores[name] if not key.endswith("_stderr")))
        rows = [
            [f"{key} ({_unit(scores, key)})", *(compact(scores[name].get(key, {}).get("value")) for name in names)]
            for key in keys
        ]
        text += markdown(["", *names], rows)
    return text + "\n" + _figure(content, "report/held_out.png", "Held-out loss of teacher and students")


def _evaluation(content: RunContent) -> str:
    parts = []
    for folder, result in content.evaluations.items():
        config = result["config"]
        limit = f", {config['limit']} questions of a task at most" if config["limit"] else ""
        what = f"suite {config['suite']}" if config["suite"] else "tasks"
        header, rows = evaluation_table(result["metrics"])
        parts.append(f"`{config['model']}` on {what}{limit} ({folder}, {result['date']}):\n\n{markdown(header, rows)}")
    return "\n".join(parts)


def _unit(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str) -> str:
    return next(found[key]["unit"] for found in scores.values() if key in found)


def _placement(content: RunContent) -> str:
    if content.placement is None:
        return ""
    found = content.placement
    done, naive = found["layer_evaluations"], found["naive_layer_evaluations"]
    kept = ", ".join(map(str, found["full_attention"])) or "none"
    windows = ", ".join(map(str, found["sliding_window"]))
    lines = [
        f"Layers that keep full attention (budget {found['budget']}): **{kept}**.",
        *([f"Layers that keep a sliding window: **{windows}**."] if windows else []),
        f"{done} layer evaluations instead of {naive} without sharing ({naive / done:.1f} times fewer).\n",
    ]
    rows = []
    for searched, uniform in zip(found["searched"], found["uniform"], strict=True):
        layers = [", ".join(map(str, point["layers"])) for point in (searched, uniform)]
        values = [compact(searched["value"]), compact(uniform["value"])]
        rows.append([str(searched["budget"]), layers[0], values[0], layers[1], values[1]])
    header = ["full layers", "searched", "objective", "uniform", "objective"]
    table = markdown(header, rows) if rows else ""
    pictures = _figure(content, "placement/heatmap.png", "What each single full-attention layer does")
    pictures += "\n" + _figure(content, "placement/curve.png", "Searched against uniform placement")
    return "\n".join(lines) + f"\n{pictures}\n{table}"


def _blocks(content: RunContent) -> str:
    if "blocks" not in content.results:
        return ""
    return block_markdown(content.results["blocks"]) + "\n" + _figure(content, "blocks/table.png", "Candidate blocks")


def _hardware(content: RunContent) -> str:
    if "hardware" not in content.results:
        return ""
    table = hardware_markdown(content.results["hardware"])
    pictures = _figure(content, "hardware/table.png", "Rows of the grid")
    return f"{table}\n{pictures}\n" + _figure(content, "hardware/pareto.png", "Accuracy against decode throughput")


def _training(content: RunContent) -> str:
    return _figure(content, "report/losses.png", "Losses of the training stages")


def _texts(content: RunContent) -> str:
    return "\n".join(
        f"{sample.model}, given `{sample.prompt!r}`:\n\n```text\n{sample.text}\n```\n" for sample in content.samples
    )


def _machine(content: RunContent) -> str:
    last = list(content.results.values())[-1]
    lines = [f"- {name}: {value}" for name, value in {**last["hardware"], **last["versions"]}.items()]
    return "\n".join([*lines, f"- date: {last['date']}"]) + "\n"


def _numbers(content: RunContent) -> str:
    parts = []
    for stage, result in content.results.items():
        rows = [[name, _exact(found["value"]), found["unit"]] for name, found in result["metrics"].items()]
        if rows:
            parts.append(f"### {stage}\n\n" + markdown(["name", "value", "unit"], rows))
    return "\n".join(parts)


def _exact(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
