"""Means of several losses over batches and ranks."""

from torch import Tensor
from torchmetrics import SumMetric

_WEIGHT = "weight"


class MeanLosses:
    """One running mean for each name it is given; not part of any checkpoint.

    Two sums of torchmetrics each, of tensors that are on the device already: its weighted mean brings the weight there
    in every update, which waits for all work before it, and when told not to look for NaNs it forgets the weights.
    """

    def __init__(self) -> None:
        self._sums: dict[str, SumMetric] = {}

    def update(self, losses: dict[str, Tensor], weight: float) -> None:
        """Take in one batch's scalars, always of the same names, with the batch's weight."""
        some = next(iter(losses.values()))
        for name, loss in {**losses, _WEIGHT: some.new_ones(())}.items():
            if name not in self._sums:
                # To look for NaNs is to wait for the device; the NaN guard looks where it waits anyway.
                self._sums[name] = SumMetric(nan_strategy="disable").to(loss.device)
            self._sums[name].update(loss.detach() * weight)

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Returns `prefix/NAME` -> mean since the last call, over all ranks, and starts anew."""
        if not self._sums:
            return {}
        sums = {name: total.compute() for name, total in self._sums.items()}
        self._sums.clear()
        weight = sums.pop(_WEIGHT)
        return {f"{prefix}/{name}": total / weight for name, total in sums.items()}
