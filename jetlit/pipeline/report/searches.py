"""Figures of the searches, drawn from their results: the searches and the report draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jetlit.files import write_text
from jetlit.pipeline.report import figures, style
from jetlit.pipeline.report.tables import candidate_table, markdown

Result = Mapping[str, Any]
"""What result.json holds; "config", "metrics" and "decision" are read."""


def placement_figures(placement: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws a placement search from the content of placement.json.

    Returns:
        By file name: the heatmap of fig. 5a and the curve of fig. 5b.
    """
    drawn = {
        "heatmap.png": figures.heatmap(
            placement["heatmap"],
            placement["linear_scores"],
            placement["full_scores"],
            placement["full_attention"],
            placement["objectives"],
        )
    }
    if placement["searched"]:
        drawn["curve.png"] = figures.curve(placement["searched"], placement["uniform"], placement["budget"])
    return drawn


def block_figures(result: Result) -> dict[str, Figure]:
    """Draws the table of a block selection."""
    names, chosen = list(result["config"]["blocks"]), result["decision"]["block"]
    header, rows = candidate_table("block", names, [candidate_metrics(result, name) for name in names])
    title = "Linear blocks in the searched placement (bold: taken)"
    return {"table.png": figures.table(title, header, rows, names.index(chosen))}


def block_markdown(result: Result) -> str:
    """Returns the table of a block selection."""
    names = list(result["config"]["blocks"])
    header, rows = candidate_table("block", names, [candidate_metrics(result, name) for name in names])
    return markdown(header, rows, names.index(result["decision"]["block"]))


def hardware_figures(result: Result) -> dict[str, Figure]:
    """Draws the table and the Pareto front of a hardware-aware search."""
    names = list(result["config"]["rows"])
    metrics = [candidate_metrics(result, name) for name in names]
    labels = [_label(row) for row in result["config"]["rows"].values()]
    chosen = names.index(result["decision"]["row"])
    header, rows = candidate_table("d_K x d_V x heads", labels, metrics)
    title = f"Shapes of {result['decision']['block']} under one state size (bold: taken)"
    accuracy = [row["accuracy"]["value"] for row in metrics]
    speed = [row["decode_tokens_per_s"]["value"] for row in metrics]
    return {
        "table.png": figures.table(title, header, rows, chosen),
        "pareto.png": figures.pareto(labels, accuracy, speed, chosen),
    }


def hardware_markdown(result: Result) -> str:
    """Returns the table of a hardware-aware search."""
    names = list(result["config"]["rows"])
    labels = [_label(row) for row in result["config"]["rows"].values()]
    metrics = [candidate_metrics(result, name) for name in names]
    header, rows = candidate_table("d_K x d_V x heads", labels, metrics)
    return markdown(header, rows, names.index(result["decision"]["row"]))


def candidate_metrics(result: Result, name: str) -> dict[str, Any]:
    """Returns a candidate's own metrics out of the search's, where each name begins with the candidate's."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in result["metrics"].items() if key.startswith(prefix)}


def save_figures(drawn: Mapping[str, Figure], folder: Path) -> None:
    """Writes figures into a folder under their names."""
    for name, figure in drawn.items():
        style.save(figure, folder / name)


def save_table(text: str, folder: Path) -> None:
    """Writes a Markdown table as table.md."""
    write_text(folder / "table.md", text)


def _label(row: Mapping[str, Any]) -> str:
    conv = "" if row["conv_size"] is None else f", conv {row['conv_size']}"
    return f"{row['key_dim']} x {row['value_dim']} x {row['heads']}{conv}"
