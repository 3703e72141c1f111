"""Loss curves of the training stages, read back from TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

Curve = list[tuple[int, float]]


def loss_curves(folder: Path) -> dict[str, Curve]:
    """Returns the losses that a fit trained on and their held-out counterparts.

    Args:
        folder: of its event files; it may be missing.

    Returns:
        (step, value) pairs by the name they were logged under, by rising step; "feature" is a relative squared error,
        the others are in nats per token.
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
