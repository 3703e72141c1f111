"""Which steps are logged."""

from typing import Any

from lightning.pytorch import Trainer


def is_logged(trainer: Trainer, step: int) -> bool:
    """Whether numbers are logged after `step` optimizer steps, as `trainer.log_every_n_steps` says."""
    every: Any = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside of the trainer's class
    return step % every == 0
