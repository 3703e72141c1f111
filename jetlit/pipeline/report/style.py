"""One look for all figures: colors that color-blind readers tell apart, quiet axes, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jetlit.files import atomic_path

# Okabe and Ito's palette, without its yellow, which is too pale on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
COLORS: Sequence[str] = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
DPI = 150


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of the given size in inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def save_all(drawn: Mapping[str, Figure], folder: Path) -> None:
    """Write figures into a folder under their names."""
    for name, figure in drawn.items():
        save(figure, folder / name)
