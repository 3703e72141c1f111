"""TensorBoard curves, and the steps that are logged."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class StageLogger(TensorBoardLogger):
    """Writes the curves of a fit into one folder, also after a resume.

    Args:
        folder: For the event files.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)

    def begin_at(self, step: int) -> None:
        """Discard what an earlier process logged at `step` and later, so that a resumed curve has no seam."""
        self._kwargs["purge_step"] = step


def is_logged(trainer: Trainer, step: int) -> bool:
    """Return whether numbers are logged after `step` optimizer steps, according to `trainer.log_every_n_steps`."""
    every: Any = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside of the trainer's class
    return every > 0 and step % every == 0
