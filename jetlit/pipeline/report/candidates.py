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
    """Return a search's table, and below it how sure the choice is."""
    title, labels, metrics, chosen = _candidates(result)
    table = markdown(*candidate_table(title, labels, metrics), chosen)
    error = result.decision.get("accuracy_stderr")
    if error is None:  # of an earlier version
        return table
    names = dict(zip(_names(result), labels, strict=True))
    others = [names[name] for name in result.decision["not_distinguishable_from"]]
    text = (
        f"Taken: **{labels[chosen]}**, mean accuracy {metrics[chosen]['accuracy']:.4f} ± {error:.4f} (standard error)."
    )
    return "\n".join([table, text, *uncertainty(result.decision, "; ".join(others)), ""])


def uncertainty(decision: Mapping[str, Any], others: str) -> list[str]:
    """Return the sentences on what a search could not tell apart.

    Args:
        decision: the search's.
        others: names of those that are as good as the chosen one, "" for none.
    """
    text = [f"Not distinguishable from {others}: within one standard error of the best."] if others else []
    if tasks := decision.get("teacher_at_chance"):
        text.append(
            f"Warning: the teacher is no better than chance on {', '.join(tasks)}; differences there are noise."
        )
    return text


def save_candidates(result: Result, folder: Path) -> None:
    """Write a search's figures and table.md."""
    save_all(candidate_figures(result), folder)
    write_text(folder / "table.md", candidate_markdown(result))


def _candidates(result: Result) -> tuple[str, list[str], list[dict[str, Any]], int]:
    """Return the first column's title, and labels, metrics and the number of the chosen one."""
    blocks = result.stage == "blocks"
    names = _names(result)
    labels = names if blocks else [_label(row) for row in result.config["rows"].values()]
    metrics = [
        {key.removeprefix(f"{name}/"): value for key, value in result.metrics.items() if key.startswith(f"{name}/")}
        for name in names
    ]
    chosen = names.index(result.decision["block" if blocks else "row"])
    return "block" if blocks else "d_K x d_V x heads", labels, metrics, chosen


def _names(result: Result) -> list[str]:
    return list(result.config["blocks" if result.stage == "blocks" else "rows"])


def _label(row: Mapping[str, Any]) -> str:
    conv = "" if row["conv_size"] is None else f", conv {row['conv_size']}"
    return f"{row['key_dim']} x {row['value_dim']} x {row['heads']}{conv}"
