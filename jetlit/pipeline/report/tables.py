"""The searches' tables, as text for a figure and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jetlit.pipeline.report.style import compact

# Name in the metrics -> column title.
_COLUMNS = {
    "accuracy": "mean\naccuracy",
    "held_out_loss": "held-out loss\n(nats/token)",
    "training_tokens_per_s": "training\n(tokens/s)",
    "prefill_tokens_per_s": "prefill\n(tokens/s)",
    "decode_tokens_per_s": "decode\n(tokens/s)",
    "parameters": "parameters",
    "linear_state_bytes": "linear state\n(B/sequence)",
    "state_bytes": "whole cache\n(B/sequence)",
}


def candidate_table(
    title: str, names: Sequence[str], metrics: Sequence[Mapping[str, Mapping[str, Any]]]
) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table of candidates: losses, task scores, throughput and sizes with units.

    Args:
        title: of the first column.
        names: of the candidates.
        metrics: of the candidates, as in result.json.
    """
    tasks = [name for name in metrics[0] if name.endswith("/accuracy")]
    columns = [
        "held_out_loss",
        "accuracy",
        *tasks,
        *[name for name in _COLUMNS if name not in ("held_out_loss", "accuracy")],
    ]
    header = [title, *(_COLUMNS.get(name) or f"{name.removesuffix('/accuracy')}\n(accuracy)" for name in columns)]
    rows = [
        [name, *(compact(row.get(column, {}).get("value")) for column in columns)]
        for name, row in zip(names, metrics, strict=True)
    ]
    return header, rows


def evaluation_table(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of what `jetlit eval` found: of a suite a row a task, the paper's figures beside it.

    Args:
        metrics: of the evaluation, as in result.json.
    """
    tasks = [name.removesuffix("/value") for name in metrics if name.endswith("/value")]
    if not tasks:
        return ["metric", "value", "unit"], [
            [name, compact(found["value"]), found["unit"]] for name, found in metrics.items()
        ]
    models = list(dict.fromkeys(name.partition("/paper/")[2] for name in metrics if "/paper/" in name))
    columns = ["value", "stderr", "num_fewshot", "questions", *(f"paper/{model}" for model in models)]
    header = ["task", "value", "standard error", "shots", "questions", *(f"{model} (paper)" for model in models)]
    return header, [
        [task, *(compact(metrics.get(f"{task}/{column}", {}).get("value")) for column in columns)] for task in tasks
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], chosen: int | None = None, texts: int = 1) -> str:
    """Returns a Markdown table; the chosen row is bold, the first `texts` columns are left-aligned."""
    lines = ["| " + " | ".join(text.replace("\n", " ") for text in header) + " |"]
    lines.append("|" + "|".join("---" if column < texts else "---:" for column in range(len(header))) + "|")
    for index, row in enumerate(rows):
        cells = [f"**{cell}**" for cell in row] if index == chosen else list(row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
