"""report.md: the report of a run for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jetlit.pipeline.report.candidates import candidate_markdown
from jetlit.pipeline.report.content import RunContent
from jetlit.pipeline.report.style import compact
from jetlit.pipeline.report.tables import evaluation_table, markdown
from jetlit.results import Result, unit_of


def report_text(content: RunContent) -> str:
    """Return report.md; sections that a run has nothing for are left out."""
    sections: dict[str, Callable[[RunContent], str]] = {
        "Stages": _stages,
        "Teacher and students": _models,
        "Evaluation": _evaluation,
        "Placement of full attention": _placement,
        "Linear blocks": lambda content: _candidates(content, "blocks", "Candidate blocks"),
        "Shapes under one state size": lambda content: _candidates(content, "hardware", "Candidate shapes"),
        "Training": lambda content: _figure(content, "report/losses.png", "Losses of the training stages"),
        "Texts": _texts,
        "Machine and versions": _machine,
        "All numbers": _numbers,
    }
    texts = {title: write(content) for title, write in sections.items()}
    parts = [f"## {title}\n\n{text}" for title, text in texts.items() if text]
    return "\n".join(["# Report of a PostNAS run\n", *parts])


def _figure(content: RunContent, name: str, what: str) -> str:
    return f"![{what}]({name})\n" if name in content.drawn else ""


def _stages(content: RunContent) -> str:
    rows = []
    for stage, result in content.stored.items():
        seed = "-" if result["seed"] is None else str(result["seed"])
        rows.append(
            [stage, _decision(stage, result["decision"]), f"{result['seconds']:.1f}", seed, result["hash"][:12]]
        )
    total = sum(result["seconds"] for result in content.stored.values())
    return markdown(["stage", "decision", "seconds", "seed", "hash"], rows) + f"\n{total:.0f} s in all.\n"


def _decision(stage: str, decision: Any) -> str:
    if stage == "placement":
        window = decision["sliding_window"]
        return f"full attention in layers {decision['full_attention']}" + (f", windows in {window}" if window else "")
    if stage in ("blocks", "hardware"):
        return " ".join(decision[key] for key in ("block", "row") if key in decision)
    return ", ".join(f"{key}: {value}" for key, value in decision.items()) if isinstance(decision, dict) else ""


def _models(content: RunContent) -> str:
    scores = {name: found for name, found in content.scores.items() if found}
    teacher = scores.get("teacher", {})
    tasks = [name.removesuffix("/chance") for name in teacher if name.endswith("/chance")]
    text = "".join(
        f"- {task}: the teacher is right in {teacher[f'{task}/accuracy']:.1%}, chance is "
        f"{teacher[f'{task}/chance']:.1%}.\n"
        for task in tasks
    )
    if scores:
        keys = dict.fromkeys(key for found in scores.values() for key in found if not key.endswith("_stderr"))
        rows = [[f"{key} ({unit_of(key)})", *(compact(found.get(key)) for found in scores.values())] for key in keys]
        text += "\n" + markdown(["", *scores], rows)
    return text + "\n" + _figure(content, "report/held_out.png", "Held-out loss of teacher and students")


def _evaluation(content: RunContent) -> str:
    parts = []
    for folder, stored in content.evaluations.items():
        config = stored["config"]
        limit = f", {config['limit']} questions of a task at most" if config["limit"] else ""
        what = f"suite {config['suite']}" if config["suite"] else "tasks"
        table = markdown(*evaluation_table(Result.of(stored).metrics))
        parts.append(f"`{config['model']}` on {what}{limit} ({folder}, {stored['date']}):\n\n{table}")
    return "\n".join(parts)


def _placement(content: RunContent) -> str:
    found = content.placement
    if found is None:
        return ""
    done, naive = found["layer_evaluations"], found["naive_layer_evaluations"]
    text = f"Layers that keep full attention (budget {found['budget']}): **{_layers(found['full_attention'])}**.\n"
    if found["sliding_window"]:
        text += f"Layers that keep a sliding window: **{_layers(found['sliding_window'])}**.\n"
    text += f"{done} layer evaluations instead of {naive} without sharing ({naive / done:.1f} times fewer).\n\n"
    text += _figure(content, "placement/heatmap.png", "What each single full-attention layer does") + "\n"
    text += _figure(content, "placement/curve.png", "Searched against uniform placement") + "\n"
    rows = [
        [str(points[0]["budget"]), *(cell for p in points for cell in (_layers(p["layers"]), compact(p["value"])))]
        for points in zip(found["searched"], found["uniform"], strict=True)
    ]
    header = ["full layers", "searched", "objective", "uniform", "objective"]
    return text + (markdown(header, rows) if rows else "")


def _layers(layers: list[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def _candidates(content: RunContent, stage: str, what: str) -> str:
    if stage not in content.results:
        return ""
    table = _figure(content, f"{stage}/table.png", what)
    front = _figure(content, f"{stage}/pareto.png", "Accuracy against decode throughput")
    return "\n".join([candidate_markdown(content.results[stage]), table, front])


def _texts(content: RunContent) -> str:
    return "\n".join(
        f"{sample.model}, given `{sample.prompt!r}`:\n\n```text\n{sample.text}\n```\n" for sample in content.samples
    )


def _machine(content: RunContent) -> str:
    last = list(content.stored.values())[-1]
    lines = [f"- {name}: {value}" for name, value in {**last["hardware"], **last["versions"]}.items()]
    return "\n".join([*lines, f"- date: {last['date']}"]) + "\n"


def _numbers(content: RunContent) -> str:
    def exact(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    parts = []
    for stage, stored in content.stored.items():
        rows = [[name, exact(found["value"]), found["unit"]] for name, found in stored["metrics"].items()]
        if rows:
            parts.append(f"### {stage}\n\n" + markdown(["name", "value", "unit"], rows))
    return "\n".join(parts)
