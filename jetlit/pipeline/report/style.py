"""One look for all figures: colours that colour-blind readers tell apart, quiet axes, no global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jetlit.files import atomic_path

# Okabe and Ito's palette, without its yellow, which is too pale on white.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
COLOURS: Sequence[str] = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
DPI = 150


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns a figure of the given size in inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [quiet(axis) for axis in axes.flat]


def quiet(axis: Axes) -> Axes:
    """Takes away the frame's upper and right line and adds a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    return axis


def save(figure: Figure, path: Path) -> None:
    """Writes a figure to a PNG file atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def compact(value: float | int | None) -> str:
    """Returns a number as people read it: 12.3k, 1.96B, 0.873; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 10_000:
        return str(value)
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
