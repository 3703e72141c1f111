"""Termination of a fit by SIGTERM, in all processes after the same step."""

import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed

from jetlit.training.steps import after_each_step


class TerminationAgreement:
    """Asks after each step whether any process received SIGTERM.

    On a GPU the answer is read after the next step: by then it has reached the host, so nothing waits for it, and all
    processes read it at the same place. Lightning asks with a blocking broadcast before every batch, which leaves the
    device without queued work and costs a sharded step dozens of milliseconds. It also ends one process inside of a
    step whose batches are accumulated, and in the middle of a validation.
    """

    def __init__(self, device: torch.device, alone: bool) -> None:
        self.device, self.alone = device, alone
        self.signaled = False
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal and do nothing else: it may come anywhere in a step."""
        self.signaled = True

    def __call__(self) -> None:
        """Ask, and read the answer.

        Raises:
            SIGTERMException: A process received SIGTERM; on a GPU, before the last step ended.
        """
        if self.alone:
            ends = self.signaled
        elif self.device.type == "cuda":
            if self._arrived is not None:
                self._arrived.synchronize()
            ends = self._answer is not None and bool(self._answer.item())
            self._answer = self._ask().to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            ends = bool(self._ask().item())
        if ends:
            raise SIGTERMException

    def _ask(self) -> Tensor:
        signaled = torch.full((), float(self.signaled), device=self.device)
        distributed.all_reduce(signaled, distributed.ReduceOp.MAX)
        return signaled


def agree_on_termination(trainer: Trainer) -> None:
    """Replace Lightning's handling of SIGTERM by an agreement. Call it in every process once a fit has begun."""
    agreement = TerminationAgreement(trainer.strategy.root_device, trainer.world_size == 1)
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None

    def end() -> None:
        if not loop._is_training_done:
            agreement()

    after_each_step(trainer, end)
    signal.signal(signal.SIGTERM, agreement.on_signal)  # the trainer restores the former handler at its end
