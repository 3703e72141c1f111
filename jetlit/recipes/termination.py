"""Ending a fit of several processes when one of them is told to (SIGTERM), in all of them after the same step.

Lightning asks for it in every step by a broadcast that the host waits for: the device then has nothing queued at each
step's beginning, which costs a sharded step dozens of milliseconds. On the signal it broadcasts once more, wherever in
a step each process happens to be, among the collectives of others.
"""

import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed


class TerminationAgreement:
    """Asks before each batch whether any process was told to end, and hears the answer before the next one.

    By then it has long reached the host, so that nothing waits; and all processes hear it at the same place.

    Args:
        device: where collectives run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.told = False
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal, and nothing else: it comes anywhere in a step."""
        self.told = True

    def __call__(self) -> None:
        """Before a batch.

        Raises:
            SIGTERMException: a process was told to end before the last batch began.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        if self._answer is not None and self._answer.item():
            raise SIGTERMException
        told = torch.full((), float(self.told), device=self.device)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        self._answer = told.to("cpu", non_blocking=True)
        if self.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()


def agree_on_termination(trainer: Trainer) -> None:
    """Put an agreement in the place of Lightning's; call it in every process when a fit has begun."""
    if trainer.world_size > 1:
        agreement = TerminationAgreement(trainer.strategy.root_device)
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = agreement
        signal.signal(signal.SIGTERM, agreement.on_signal)  # the trainer puts the former handler back at its end
