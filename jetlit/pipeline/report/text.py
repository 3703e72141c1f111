"""report.md: the report of a run for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jetlit.pipeline.report.candidates import candidate_markdown, uncertainty
from jetlit.pipeline.report.tables import compact, evaluation_table, markdown
from jetlit.results import Result, unit_of

Stored = dict[str, dict[str, Any]]
"""Contents of result.json files by their folder in the run."""


@dataclass(frozen=True)
class Sample:
    """The text that a model added to a prompt."""

    model: str
    prompt: str
    text: str


def report_text(
    stages: Stored,
    evaluations: Stored,
    placement: Mapping[str, Any] | None,
    scores: Mapping[str, Mapping[str, Any]],
    samples: Sequence[Sample],
    figures: Collection[str],
) -> str:
    """Return report.md; sections that a run has nothing for are left out.

    Args:
        stages: results of the finished stages, in order.
        evaluations: results of `jetlit eval`.
        placement: content of placement.json.
        scores: metrics of the run's models, by model.
        samples: texts that the models wrote.
        figures: paths of the figures, relative to the run folder.
    """

    def figure(name: str, what: str) -> str:
        return f"![{what}]({name})\n" if name in figures else ""

    def candidates(stage: str, what: str) -> str:
        if stage not in stages:
            return ""
        table = figure(f"{stage}/table.png", what)
        front = figure(f"{stage}/pareto.png", "Accuracy against decode throughput")
        return "\n".join([candidate_markdown(Result.of(stages[stage])), table, front])

    heatmap = figure("placement/heatmap.png", "What each single full-attention layer does")
    curve = figure("placement/curve.png", "Searched against uniform placement")
    held_out = figure("report/held_out.png", "Held-out loss of teacher and students")
    sections = {
        "Stages": _stages(stages),
        "Teacher and students": f"{_models(scores)}\n{held_out}",
        "Evaluation": "\n".join(_evaluation(folder, stored) for folder, stored in evaluations.items()),
        "Placement of full attention": _placement(stages, placement, f"{heatmap}\n{curve}\n") if placement else "",
        "Linear blocks": candidates("blocks", "Candidate blocks"),
        "Shapes under one state size": candidates("hardware", "Candidate shapes"),
        "Training": figure("report/losses.png", "Losses of the training stages"),
        "Texts": "\n".join(f"{one.model}, given `{one.prompt!r}`:\n\n```text\n{one.text}\n```\n" for one in samples),
        "Machine and versions": _machine(list(stages.values())[-1]),
        "All numbers": "\n".join(_numbers(stage, stored) for stage, stored in stages.items() if stored["metrics"]),
    }
    return "\n".join(
        ["# Report of a PostNAS run\n", *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
    )


def _stages(stages: Stored) -> str:
    rows = []
    for stage, result in stages.items():
        seed = "-" if result["seed"] is None else str(result["seed"])
        decision = _decision(stage, result["decision"])
        rows.append([stage, decision, f"{result['seconds']:.1f}", seed, result["hash"][:12]])
    total = sum(result["seconds"] for result in stages.values())
    return markdown(["stage", "decision", "seconds", "seed", "hash"], rows) + f"\n{total:.0f} s in all.\n"


def _decision(stage: str, decision: Any) -> str:
    if stage == "placement":
        window = decision["sliding_window"]
        return f"full attention in layers {decision['full_attention']}" + (f", windows in {window}" if window else "")
    if stage in ("blocks", "hardware"):
        return " ".join(decision[key] for key in ("block", "row") if key in decision)
    return ", ".join(f"{key}: {value}" for key, value in decision.items()) if isinstance(decision, dict) else ""


def _models(scores: Mapping[str, Mapping[str, Any]]) -> str:
    scores = {name: found for name, found in scores.items() if found}
    text = ""
    teacher = scores.get("teacher", {})
    for task in (name.removesuffix("/chance") for name in teacher if name.endswith("/chance")):
        right, chance = teacher[f"{task}/accuracy"], teacher[f"{task}/chance"]
        text += f"- {task}: the teacher is right in {right:.1%}, chance is {chance:.1%}.\n"
    if scores:
        keys = dict.fromkeys(key for found in scores.values() for key in found if not key.endswith("_stderr"))
        rows = [[f"{key} ({unit_of(key)})", *(compact(found.get(key)) for found in scores.values())] for key in keys]
        text += "\n" + markdown(["", *scores], rows)
    return text


def _evaluation(folder: str, stored: Mapping[str, Any]) -> str:
    config = stored["config"]
    limit = f", {config['limit']} questions of a task at most" if config["limit"] else ""
    what = f"suite {config['suite']}" if config["suite"] else "tasks"
    table = markdown(*evaluation_table(Result.of(stored).metrics))
    return f"`{config['model']}` on {what}{limit} ({folder}, {stored['date']}):\n\n{table}"


def _placement(stages: Stored, found: Mapping[str, Any], figures: str) -> str:
    done, naive = found["layer_evaluations"], found["naive_layer_evaluations"]
    text = f"Layers that keep full attention (budget {found['budget']}): **{_layers(found['full_attention'])}**.\n"
    if found.get("value_stderr") is not None:  # earlier versions did not say
        text += f"Objective: {found['value']:.4f} ± {found['value_stderr']:.4f} (standard error).\n"
        decision = stages["placement"]["decision"]
        others = "; ".join(decision["not_distinguishable_from"])
        text += "".join(f"{sentence}\n" for sentence in uncertainty(decision, others))
    if found["sliding_window"]:
        text += f"Layers that keep a sliding window: **{_layers(found['sliding_window'])}**.\n"
    text += f"{done} layer evaluations instead of {naive} without sharing ({naive / done:.1f} times fewer).\n\n"
    rows = [
        [str(points[0]["budget"]), *(cell for p in points for cell in (_layers(p["layers"]), compact(p["value"])))]
        for points in zip(found["searched"], found["uniform"], strict=True)
    ]
    header = ["full layers", "searched", "objective", "uniform", "objective"]
    return text + figures + (markdown(header, rows) if rows else "")


def _layers(layers: list[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def _machine(last: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in {**last["hardware"], **last["versions"]}.items()]
    return "\n".join([*lines, f"- date: {last['date']}"]) + "\n"


def _numbers(stage: str, stored: Mapping[str, Any]) -> str:
    rows = []
    for name, found in stored["metrics"].items():
        value = found["value"]
        rows.append([name, f"{value:.6g}" if isinstance(value, float) else str(value), found["unit"]])
    return f"### {stage}\n\n" + markdown(["name", "value", "unit"], rows)
