"""Means of several losses over batches and ranks."""

from torch import Tensor
from torchmetrics import MeanMetric


class MeanLosses:
    """One running mean for each name it is given; not part of any checkpoint."""

    def __init__(self) -> None:
        self.means: dict[str, MeanMetric] = {}

    def update(self, losses: dict[str, Tensor], weight: float) -> None:
        """Take in one batch's scalars, each with the batch's weight."""
        for name, loss in losses.items():
            if name not in self.means:
                # To look for NaNs is to wait for the device in every step; the NaN guard looks where it waits anyway.
                self.means[name] = MeanMetric(nan_strategy="disable").to(loss.device)
            self.means[name].update(loss.detach(), weight)

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Returns `prefix/NAME` -> mean since the last call, over all ranks, and starts anew."""
        means = {f"{prefix}/{name}": mean.compute() for name, mean in self.means.items()}
        for mean in self.means.values():
            mean.reset()
        return means
