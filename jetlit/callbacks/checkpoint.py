"""Checkpoints of a fit."""

from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from jetlit.values import Count


class StageCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint of a fit, and writes one when a scheduler ends the process with SIGTERM.

    Args:
        dirpath: The folder. Checkpoints are named by their step.
        every_n_train_steps: Optimizer steps from one checkpoint to the next.
        save_top_k: 1 keeps only the newest, -1 all.
    """

    def __init__(self, dirpath: str, every_n_train_steps: Count = 100, save_top_k: Literal[-1, 1] = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{step:08d}",
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            save_on_exception=True,
            enable_version_counter=False,
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save after a SIGTERM, which ends a fit between steps. Other errors leave no state worth keeping."""
        if isinstance(exception, SIGTERMException):
            super().on_exception(trainer, pl_module, exception)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for background writes, which Lightning's sharding strategies do not."""
        trainer.strategy.checkpoint_io.teardown()
