"""Tables of results, as texts for a figure and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jetlit.results import unit_of

Table = tuple[list[str], list[list[str]]]  # header and rows

# Name in the metrics -> column title.
_COLUMNS = {
    "held_out_loss": "held-out loss\n(nats/token)",
    "accuracy": "mean\naccuracy",
    "training_tokens_per_s": "training\n(tokens/s)",
    "prefill_tokens_per_s": "prefill\n(tokens/s)",
    "decode_tokens_per_s": "decode\n(tokens/s)",
    "parameters": "parameters",
    "linear_state_bytes": "linear state\n(B/sequence)",
    "state_bytes": "whole cache\n(B/sequence)",
}


def candidate_table(title: str, names: Sequence[str], metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of candidates: losses, task scores, throughput and sizes with units.

    Args:
        title: title of the first column.
        names: of the candidates.
        metrics: of each candidate.
    """
    tasks = {name: f"{name.removesuffix('/accuracy')}\n(accuracy)" for name in metrics[0] if name.endswith("/accuracy")}
    first = ("held_out_loss", "accuracy")
    columns = {name: _COLUMNS[name] for name in first} | tasks | _COLUMNS
    rows = [[name, *(compact(row.get(column)) for column in columns)] for name, row in zip(names, metrics, strict=True)]
    return [title, *columns.values()], rows


def evaluation_table(metrics: Mapping[str, Any]) -> Table:
    """Return a table of what `jetlit eval` found: for a suite a row for each task, the paper's figures beside it."""
    tasks = [name.removesuffix("/value") for name in metrics if name.endswith("/value")]
    if not tasks:
        return ["metric", "value", "unit"], [[name, compact(value), unit_of(name)] for name, value in metrics.items()]
    models = list(dict.fromkeys(name.partition("/paper/")[2] for name in metrics if "/paper/" in name))
    columns = ["value", "stderr", "num_fewshot", "questions", *(f"paper/{model}" for model in models)]
    header = ["task", "value", "standard error", "shots", "questions", *(f"{model} (paper)" for model in models)]
    return header, [[task, *(compact(metrics.get(f"{task}/{column}")) for column in columns)] for task in tasks]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], chosen: int | None = None) -> str:
    """Return a Markdown table; the chosen row is bold, the first column is left-aligned."""
    lines = ["| " + " | ".join(text.replace("\n", " ") for text in header) + " |"]
    lines.append("|---|" + "---:|" * (len(header) - 1))
    for index, row in enumerate(rows):
        cells = [f"**{cell}**" for cell in row] if index == chosen else list(row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def compact(value: float | int | None) -> str:
    """Return a number as people read it: 12.3k, 1.96B, 0.873; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 10_000:
        return str(value)
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
