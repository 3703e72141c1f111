"""Table and figures of a search's candidates; the searches and the report draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jetlit.files import write_text
from jetlit.pipeline.report import figures
from jetlit.pipeline.report.style import save_all
from jetlit.pipeline.report.tables import candidate_table, markdown
from jetlit.results import Result


def candidate_figures(result: Result) -> dict[str, Figure]:
    """Draw a search's table, and of shapes the Pareto front too."""
    title, labels, metrics, chosen = _candidates(result)
    header, rows = candidate_table(title, labels, metrics)
    if result.stage == "blocks":
        what = "Linear blocks in the searched placement (bold: taken)"
        return {"table.png": figures.table(what, header, rows, chosen)}
    what = f"Shapes of {result.decision['block']} under one state size (bold: taken)"
    accuracy, speed = ([row[name] for row in metrics] for name in ("accuracy", "decode_tokens_per_s"))
    return {
        "table.png": figures.table(what, header, rows, chosen),
        "pareto.png": figures.pareto(labels, accuracy, speed, chosen),
    }


def candidate_markdown(result: Result) -> str:
    """Return a search's table."""
    title, labels, metrics, chosen = _candidates(result)
    return markdown(*candidate_table(title, labels, metrics), chosen)


def save_candidates(result: Result, folder: Path) -> None:
    """Write a search's figures and table.md."""
    save_all(candidate_figures(result), folder)
    write_text(folder / "table.md", candidate_markdown(result))


def _candidates(result: Result) -> tuple[str, list[str], list[dict[str, Any]], int]:
    """Return the first column's title, and labels, metrics and the number of the chosen one."""
    blocks = result.stage == "blocks"
    candidates: Mapping[str, Any] = result.config["blocks" if blocks else "rows"]
    names = list(candidates)
    labels = names if blocks else [_label(row) for row in candidates.values()]
    metrics = [
        {key.removeprefix(f"{name}/"): value for key, value in result.metrics.items() if key.startswith(f"{name}/")}
        for name in names
    ]
    chosen = names.index(result.decision["block" if blocks else "row"])
    return "block" if blocks else "d_K x d_V x heads", labels, metrics, chosen


def _label(row: Mapping[str, Any]) -> str:
    conv = "" if row["conv_size"] is None else f", conv {row['conv_size']}"
    return f"{row['key_dim']} x {row['value_dim']} x {row['heads']}{conv}"
