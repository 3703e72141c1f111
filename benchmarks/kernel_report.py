"""What the benchmarks of the recurrences' kernels share: the command line, the measurements and their tables."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from reporting import report
from timing import kernel_times, milliseconds
from torch import Tensor

BYTES_PER_SECOND = 3.0e12  # of an H100's memory; what floors count by

Shape = tuple[int, int, int, int, int]  # B, T, H, K, V
Row = dict[str, Any]
Operator = Callable[..., tuple[Tensor, Tensor | None]]
Pass = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Recurrence:
    """An operator over sequences, and what its kernels are compared with.

    Attributes:
        name: of the reports.
        title: of the table of all shapes.
        operator: takes what `draw` returns; gives the output and the final state.
        reference: the same in float64.
        shapes: by name.
        small: where errors are measured.
        draw: the inputs of a shape, q, k and v first, with gradients.
        floors: of forward and forward + backward in ms.
        passes: a forward and backward pass at a shape, whose kernels are timed.
        sweep: times of other configurations at a shape.
        elsewhere: other columns of a shape's row, measured before.
    """

    name: str
    title: str
    operator: Operator
    reference: Operator
    shapes: Mapping[str, Shape]
    small: Shape
    draw: Callable[[Shape], list[Tensor]]
    floors: Callable[[Shape], tuple[float, float]]
    passes: Callable[[Shape], Pass]
    sweep: Callable[[Shape], list[Row]]
    elsewhere: Mapping[str, Row] = field(default_factory=dict)


def kernel_report(recurrence: Recurrence, description: str | None) -> None:
    """Read the command line, whose help is `description`, measure and report."""
    shapes, name, title = recurrence.shapes, recurrence.name, recurrence.title
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=list(shapes), default=list(shapes))
    parser.add_argument("--kernels", action="store_true", help="time every kernel of the first shape")
    parser.add_argument("--sweep", action="store_true", help="time other configurations at the shapes")
    arguments = parser.parse_args()
    rows = [measure(recurrence, shape) for shape in arguments.shapes]
    output, gradient = errors(recurrence)
    note = f"Relative error against float64: output {output:.1e}, largest of a gradient {gradient:.1e}."
    report(name, title, rows, note)
    if arguments.kernels:
        report(f"{name}_kernels", f"Kernels: {title}", kernels(recurrence.passes(shapes[arguments.shapes[0]])))
    if arguments.sweep:
        rows = [{"shape": shape} | row for shape in arguments.shapes for row in recurrence.sweep(shapes[shape])]
        report(f"{name}_sweep", f"Configurations: {title}", rows)


def measure(recurrence: Recurrence, name: str) -> Row:
    """Measure times and memory at the shape of this name."""
    shape = recurrence.shapes[name]
    tensors, floor = recurrence.draw(shape), recurrence.floors(shape)
    do = torch.randn_like(tensors[2])
    with torch.no_grad():
        forward = milliseconds(lambda: recurrence.operator(*tensors))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    both = milliseconds(lambda: torch.autograd.grad(recurrence.operator(*tensors)[0], tensors, do), 9)
    return {
        "shape": name,
        "forward ms": forward,
        "times its floor": forward / floor[0],
        "forward + backward ms": both,
        "times their floor": both / floor[1],
        "peak MiB above inputs": round((torch.cuda.max_memory_allocated() - held) / 2**20),
    } | recurrence.elsewhere.get(name, {})


def errors(recurrence: Recurrence) -> tuple[float, float]:
    """Relative errors of the output and, the largest, of a gradient, against float64."""
    tensors = recurrence.draw(recurrence.small)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    o, expected = recurrence.operator(*tensors)[0], recurrence.reference(*exact)[0]
    do = torch.randn_like(o)
    pairs = zip(torch.autograd.grad(o, tensors, do), torch.autograd.grad(expected, exact, do.double()), strict=True)
    return distance(o, expected), max(distance(a, b) for a, b in pairs)


def distance(a: Tensor, b: Tensor) -> float:
    """Return ‖a − b‖ / ‖b‖."""
    a, b = a.detach(), b.detach()
    return float((a.double() - b.double()).norm() / b.double().norm())


def kernels(run: Pass) -> list[Row]:
    """Return launches and time of every kernel of a pass."""
    times = kernel_times(run)
    return [{"kernel": name, "launches": len(t) // 3, "total µs": sum(t) / 3} for name, t in times.items()]
