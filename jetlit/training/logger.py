"""What is logged: TensorBoard curves, the steps, and means of losses over batches and processes."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import SumMetric

_WEIGHT = "weight"


class StageLogger(TensorBoardLogger):
    """Writes the curves of a fit into one folder, also after a resume."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)

    def begin_at(self, step: int) -> None:
        """Discard what an earlier process logged at `step` and later, so that a resumed curve has no seam."""
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def flush(self) -> None:
        """Write what was logged to the disk."""
        self.experiment.flush()


def is_logged(trainer: Trainer, step: int) -> bool:
    """Return whether numbers are logged after `step` optimizer steps, according to `trainer.log_every_n_steps`."""
    every: Any = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside of the trainer's class
    return every > 0 and step % every == 0


class RunningMeans:
    """One running mean for each name.

    Each mean is a `SumMetric` over tensors that are on the device already. torchmetrics' weighted mean copies its
    weight to the device in every update, which waits for all queued work.
    """

    def __init__(self) -> None:
        self._sums: dict[str, SumMetric] = {}
        self._restored: dict[str, float] = {}

    def update(self, losses: dict[str, Tensor], weight: float) -> None:
        """Add the scalars of one batch, always of the same names, with the weight of the batch."""
        first = next(iter(losses.values()))
        for name, loss in {**losses, _WEIGHT: first.new_ones(())}.items():
            if name not in self._sums:
                # A check for NaN would wait for the device; the NaN guard checks once a step.
                self._sums[name] = SumMetric(nan_strategy="disable").to(loss.device)
                if name in self._restored:
                    self._sums[name].update(self._restored.pop(name))
            self._sums[name].update(loss.detach() * weight)

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Return the means over all processes since the last call as `prefix/NAME`."""
        if not self._sums:
            return {}
        sums = {name: total.compute() for name, total in self._sums.items()}
        self._sums.clear()
        weight = sums.pop(_WEIGHT)
        return {f"{prefix}/{name}": total / weight for name, total in sums.items()}

    def totals(self) -> dict[str, float]:
        """Return the sums over all processes so far, for a checkpoint; all processes call this together."""
        return {name: total.compute().item() for name, total in self._sums.items()} or self._restored

    def restore(self, totals: dict[str, float]) -> None:
        """Continue from a checkpoint's sums. One process does that, since they are of all."""
        self._restored = dict(totals)
