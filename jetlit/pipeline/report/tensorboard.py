"""TensorBoard's files: the fits' loss curves read back, and the report written beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from jetlit.results import Result

Curve = list[tuple[int, float]]


def loss_curves(folder: Path) -> dict[str, Curve]:
    """Return the losses that a fit trained on and their held-out counterparts.

    Args:
        folder: folder of its event files; it may be missing.

    Returns:
        By logged name, (step, value) pairs of rising step: a relative squared error for "feature", else nats per token.
    """
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    logged = events.Tags()[SCALARS]
    trained = [loss for loss in ("loss", "kl", "feature") if f"train/{loss}" in logged]
    names = [name for loss in trained for name in (f"train/{loss}", f"val/{loss}") if name in logged]
    # A resumed fit logs its last steps again; the later value of a step counts.
    return {name: sorted({event.step: event.value for event in events.Scalars(name)}.items()) for name in names}


def write_tensorboard(folder: Path, drawn: Mapping[str, Figure], results: Mapping[str, Result], text: str) -> None:
    """Write figures, text and the fits' held-out losses, in place of those of an earlier report.

    The text holds the other numbers: a curve of one point for each would bury those of the fits.

    Args:
        folder: folder of the event files.
        drawn: figures by name.
        results: results by stage.
        text: the report in Markdown.
    """
    for events in folder.glob("events.out.tfevents.*"):  # of an earlier report
        events.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, figure in drawn.items():
            writer.add_figure(name, figure)
        for stage, result in results.items():
            for name in ("val/loss", "val/kl"):
                if result.metrics.get(name) is not None:
                    writer.add_scalar(f"result/{stage}/{name}", result.metrics[name])
        writer.add_text("report", text)
