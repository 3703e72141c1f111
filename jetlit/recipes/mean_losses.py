"""Means of several losses over batches and ranks."""

import torch
from torch import Tensor, distributed


class MeanLosses:
    """One running mean for each name it is given; not part of any checkpoint.

    Sums stay on the losses' device and weights on the host, so that no update waits for the device. (torchmetrics'
    weighted mean does, to bring the weight there and to look for NaNs; told not to look, it forgets the weights.)
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0

    def update(self, losses: dict[str, Tensor], weight: float) -> None:
        """Take in one batch's scalars, always of the same names, with the batch's weight."""
        for name, loss in losses.items():
            weighted = loss.detach() * weight
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted
        self._weight += weight

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Returns `prefix/NAME` -> mean since the last call, over all ranks, and starts anew."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))
        sums = torch.cat([sums, sums.new_full((1,), self._weight)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        names = [f"{prefix}/{name}" for name in self._sums]
        self._sums, self._weight = {}, 0.0
        return dict(zip(names, sums[:-1] / sums[-1], strict=True))
