"""One progress bar for a whole fit."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class StepProgressBar(TQDMProgressBar):
    """Counts to the last step of the fit, whose rate and remaining time it shows whatever the length of an epoch.

    Args:
        refresh_rate: Batches from one redraw to the next.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar that begins where a resumed fit does."""
        bar = super().init_train_tqdm()
        bar.set_description("Training", refresh=False)
        batches_per_step = self.trainer.accumulate_grad_batches
        bar.total = None if self.trainer.max_steps < 0 else self.trainer.max_steps * batches_per_step
        bar.initial = bar.n = self.trainer.global_step * batches_per_step
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Show no epochs."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, and show the logged numbers."""
        bar, done = self.train_progress_bar, trainer.fit_loop.total_batch_idx + 1
        if not self.is_disabled and (done % self.refresh_rate == 0 or done == bar.total):
            bar.n = done
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:  # type: ignore[override]
        """Return the logged numbers without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
