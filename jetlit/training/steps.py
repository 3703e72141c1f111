"""Where a step of a fit ends."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer


def is_mid_step(trainer: Trainer) -> bool:
    """Return whether batches of a step were trained on whose gradients have not reached the weights."""
    loop = trainer.fit_loop.epoch_loop
    return loop.batch_progress.current.ready > 0 and loop._should_accumulate()


def after_each_step(trainer: Trainer, function: Callable[[], None]) -> None:
    """Call a function whenever a step is over: the weights are updated, its numbers logged, a due validation done.

    Lightning's hooks come too early for that, between the update and the log, or too late, when the next batch was
    taken from the loader. Call this in `on_train_start`; functions are called in the order of their registration.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    before = loop.on_advance_end

    def on_advance_end(data_fetcher: Any) -> None:
        before(data_fetcher)
        if not is_mid_step(trainer):
            function()

    loop.on_advance_end = on_advance_end
