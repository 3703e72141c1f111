"""Checkpoints of a fit."""

import functools
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from jetlit.training.logger import StageLogger
from jetlit.training.steps import after_each_step
from jetlit.values import Count


class StageCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint of a fit. Writes one after the last step and when SIGTERM ends the process, too.

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save whenever a step is over that is due, curves and validation included."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # what a resumed fit began with
        after_each_step(trainer, functools.partial(self._save_if_due, trainer))

    def _save_if_due(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        loop = trainer.fit_loop
        last_epoch = loop.max_epochs is not None and 0 < loop.max_epochs <= trainer.current_epoch + 1
        is_last = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        is_last |= last_epoch and loop.epoch_loop._num_ready_batches_reached()
        if is_last or trainer.global_step % self._every_n_train_steps == 0:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Describe the loop as of the end of the last batch, the place that Lightning resumes from rightly.

        A later one, after the step's validation and log, it takes for the beginning of an epoch's validation.
        """
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            return  # between two epochs
        loop = checkpoint["loops"]["fit_loop"]
        for count in ("total", "current"):
            loop["epoch_loop.batch_progress"][count]["completed"] -= 1
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._last_global_step_saved:
            return
        for logger in trainer.loggers:
            if isinstance(logger, StageLogger):
                logger.flush()  # what was logged before a checkpoint is not logged again after it
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the step is not over yet. Inside of a step a checkpoint would lack its gradients."""

    on_validation_end = on_train_epoch_end = on_train_batch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, so that every fit ends with a checkpoint of what it exports."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Save, and remove the checkpoints of an earlier process where only the newest is kept."""
        super()._save_checkpoint(trainer, filepath)
        if self.save_top_k == 1 and trainer.is_global_zero:
            for path in Path(str(self.dirpath)).glob("step=*.ckpt"):
                if path.name != Path(filepath).name:
                    trainer.strategy.remove_checkpoint(path)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Return whether a checkpoint gives way to the next: also the one that the fit was resumed from."""
        return Path(previous).name != Path(current).name and Path(str(self.dirpath)) in Path(previous).parents

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save after a SIGTERM, which ends a fit between steps. Other errors leave no state worth keeping."""
        if isinstance(exception, SIGTERMException) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for background writes, which Lightning's sharding strategies do not."""
        trainer.strategy.checkpoint_io.teardown()
