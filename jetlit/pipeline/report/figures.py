"""The figures of a run: heatmap and curve of the placement, table and Pareto front of the candidates, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jetlit.pipeline.report.style import BLACK, BLUE, COLORS, ORANGE, VERMILION, new_figure
from jetlit.search.placement import SMALLEST_GAP


def placement_figures(placement: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw the content of placement.json: by file name, the heatmap of fig. 5a and the curve of fig. 5b."""
    kept, units = placement["full_attention"], placement["objectives"]
    rows, linear, full = (placement[name] for name in ("heatmap", "linear_scores", "full_scores"))
    drawn = {"heatmap.png": heatmap(rows, linear, full, kept, units)}
    if placement["searched"]:
        drawn["curve.png"] = curve(placement["searched"], placement["uniform"], placement["budget"])
    return drawn


def heatmap(
    rows: Mapping[str, Sequence[float]],
    linear: Mapping[str, float],
    full: Mapping[str, float],
    chosen: Sequence[int],
    units: Mapping[str, str],
) -> Figure:
    """Draw what each single full-attention layer does for each task (fig. 5a).

    Args:
        rows: for each task, the objective with full attention at layer 0, 1, … only.
        linear: each task's objective without full attention.
        full: the same with full attention everywhere.
        chosen: layers of the placement that was found; they are marked.
        units: what each task's objective is, e.g. "accuracy".

    Returns:
        A figure whose cells show the objective and are colored by its gain over `linear`, in parts of `full`'s gain.
    """
    tasks = list(rows)
    values = np.array([rows[task] for task in tasks])
    gains = np.array([values[i] - linear[task] for i, task in enumerate(tasks)])
    scale = np.array([max(abs(full[task] - linear[task]), SMALLEST_GAP) for task in tasks])[:, None]
    parts = gains / scale
    layers = values.shape[1]
    figure, (axis,) = new_figure(max(6.0, 0.62 * layers + 2.6), 0.55 * len(tasks) + 1.9)
    top = max(1.0, float(parts.max()))
    image = axis.imshow(parts, cmap="cividis", vmin=0.0, vmax=top, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        color = "white" if parts[row, column] < 0.55 * top else "black"
        text = f"{values[row, column]:.3f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(layers), [f"{layer}\n▲" if layer in chosen else str(layer) for layer in range(layers)])
    axis.set_yticks(range(len(tasks)), [f"{task}\n({units[task]})" for task in tasks])
    axis.grid(False)
    axis.set_xlabel("layer with full attention, all others linear (▲: kept by the search)")
    axis.set_title("What a single full-attention layer does for each task")
    figure.colorbar(image, ax=axis, label="part of full attention's gain")
    return figure


def curve(searched: Sequence[Mapping[str, Any]], uniform: Sequence[Mapping[str, Any]], budget: int) -> Figure:
    """Draw searched against uniform placement over the number of full-attention layers (fig. 5b).

    Args:
        searched: points {"budget", "value", "scores": {task: objective}}.
        uniform: the same for evenly spread layers.
        budget: the budget of the placement that was taken.

    Returns:
        A panel for the combined objective and one for each task.
    """
    tasks = sorted(searched[0]["scores"])
    figure, axes = new_figure(3.4 * (len(tasks) + 1), 3.4, columns=len(tasks) + 1)
    panels: list[str | None] = [None, *tasks]
    for axis, task in zip(axes, panels, strict=True):
        for points, name, color, marker in ((searched, "searched", BLUE, "o"), (uniform, "uniform", VERMILION, "s")):
            x = [point["budget"] for point in points]
            y = [point["value"] if task is None else point["scores"][task] for point in points]
            axis.plot(x, y, marker=marker, color=color, label=name)
        axis.axvline(budget, color="0.6", linestyle=":", linewidth=1)
        axis.set_xlabel("full-attention layers")
        axis.set_ylabel(task or "combined objective\n(0: all linear, 1: all full attention)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(frameon=False)
    figure.suptitle("Placement of full attention: searched against uniform")
    return figure


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], chosen: int) -> Figure:
    """Draw a table of results with the row of index `chosen` in bold."""
    lines = max(text.count("\n") for text in header) + 1
    figure, (axis,) = new_figure(1.15 * len(header) + 0.5, 0.32 * (len(rows) + lines) + 0.6)
    axis.axis("off")
    drawn = axis.table(cellText=[list(row) for row in rows], colLabels=list(header), loc="center", cellLoc="right")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)
    drawn.auto_set_column_width(list(range(len(header))))
    height = 1.0 / (len(rows) + lines + 0.5)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_height(height * (lines + 0.3 if row == 0 else 1.0))
        cell.set_edgecolor("0.85")
        cell.visible_edges = "B"
        if column == 0:
            cell.get_text().set_horizontalalignment("left")
        if row == 0 or row - 1 == chosen:
            cell.get_text().set_fontweight("bold")
    axis.set_title(title)
    return figure


def pareto(names: Sequence[str], accuracy: Sequence[float], throughput: Sequence[float], chosen: int) -> Figure:
    """Draw accuracy over decode throughput with the Pareto front, the chosen candidate marked.

    Args:
        names: of the candidates.
        accuracy: mean task accuracy of each candidate, 0 to 1.
        throughput: decode tokens/s of each candidate.
        chosen: index of the candidate that was taken.
    """
    figure, (axis,) = new_figure(6.4, 4.2)
    axis.scatter(throughput, accuracy, color=BLUE, s=36, zorder=3, label="shapes")
    front = pareto_front(accuracy, throughput)
    axis.plot(
        [throughput[i] for i in front], [accuracy[i] for i in front], color=ORANGE, zorder=2, label="Pareto front"
    )
    axis.scatter([throughput[chosen]], [accuracy[chosen]], color=VERMILION, s=150, marker="*", zorder=4, label="chosen")
    for name, x, y in zip(names, throughput, accuracy, strict=True):
        axis.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=7.5, color=BLACK)
    axis.margins(x=0.2, y=0.15)
    axis.set_xlabel("decode throughput (tokens/s)")
    axis.set_ylabel("mean task accuracy")
    axis.set_title("Shapes of one state size: accuracy against decode throughput")
    axis.legend(frameon=False, loc="best", fontsize=8)
    return figure


def pareto_front(accuracy: Sequence[float], throughput: Sequence[float]) -> list[int]:
    """Return the candidates that no other one beats in a number without losing in the other, by rising throughput."""
    front: list[int] = []
    for index in sorted(range(len(accuracy)), key=lambda i: (-throughput[i], -accuracy[i])):
        if not front or accuracy[index] > accuracy[front[-1]]:
            front.append(index)
    return front[::-1]


def losses(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Figure:
    """Draw the losses of every training stage: a panel a stage, in it a line of (step, value) pairs a curve."""
    figure, axes = new_figure(3.4 * len(curves), 3.2, columns=len(curves))
    for axis, (stage, lines) in zip(axes, curves.items(), strict=True):
        for (name, points), color in zip(lines.items(), COLORS, strict=False):
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) == 1 else "." if len(points) < 15 else None
            axis.plot(steps, values, color=color, label=name, linewidth=1.2, marker=marker)
        axis.set_title(stage, fontsize=10)
        axis.set_xlabel("step")
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel("loss")
    figure.suptitle("Losses (nats/token; feature: relative squared error)", fontsize=11)
    return figure


def held_out_bars(names: Sequence[str], values: Sequence[float]) -> Figure:
    """Draw the held-out cross entropy of teacher and students, in nats per token."""
    figure, (axis,) = new_figure(1.1 * len(names) + 2.0, 3.2)
    bars = axis.bar(list(names), list(values), color=[COLORS[i % len(COLORS)] for i in range(len(names))], width=0.6)
    axis.bar_label(bars, fmt="%.3f", fontsize=9)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.15)
    axis.set_ylabel("held-out loss (nats/token)")
    axis.set_title("Held-out loss")
    return figure
