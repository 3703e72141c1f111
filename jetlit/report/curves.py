"""Loss curves of the training stages, read back from TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

Curve = list[tuple[int, float]]


def loss_curves(folder: Path) -> dict[str, Curve]:
    """Returns every logged loss of a fit.

    Args:
        folder: of its event files; it may be missing.

    Returns:
        (step, value in nats per token) pairs by the name they were logged under, by rising step.
    """
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    names = [name for name in events.Tags()[SCALARS] if name.rpartition("/")[2] in ("loss", "kl")]
    # A resumed fit logs its last steps again; the later value of a step counts.
    return {name: sorted({event.step: event.value for event in events.Scalars(name)}.items()) for name in sorted(names)}
