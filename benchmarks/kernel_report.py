"""The command line and the tables that the benchmarks of single operators share."""

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from reporting import report

Shape = TypeVar("Shape")
Rows = list[dict[str, Any]]


def kernel_report(
    name: str,
    title: str,
    description: str | None,
    shapes: dict[str, Shape],
    measure: Callable[[str, Shape], dict[str, Any]],
    errors: Callable[[], tuple[float, float]],
    kernels: Callable[[Shape], Rows],
    sweep: Callable[[Shape], Rows],
) -> None:
    """Reads the command line, measures and reports.

    Args:
        name: of the reports.
        title: of the table of all shapes.
        description: of the command line's help.
        shapes: by name.
        measure: times one shape: a row.
        errors: relative errors of the output and, the largest, of a gradient.
        kernels: times of a shape's single kernels.
        sweep: times of other configurations at a shape.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=list(shapes), default=list(shapes))
    parser.add_argument("--kernels", action="store_true", help="time every kernel of the first shape")
    parser.add_argument("--sweep", action="store_true", help="time other configurations at the shapes")
    arguments = parser.parse_args()
    rows = [measure(shape, shapes[shape]) for shape in arguments.shapes]
    output, gradient = errors()
    note = f"Relative error against float64: output {output:.1e}, largest of a gradient {gradient:.1e}."
    report(name, title, rows, note)
    if arguments.kernels:
        report(f"{name}_kernels", f"Kernels: {title}", kernels(shapes[arguments.shapes[0]]))
    if arguments.sweep:
        rows = [{"shape": shape} | row for shape in arguments.shapes for row in sweep(shapes[shape])]
        report(f"{name}_sweep", f"Configurations: {title}", rows)
