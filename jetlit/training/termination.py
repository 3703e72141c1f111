"""Termination of a fit by SIGTERM, in all processes after the same step."""

import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed

from jetlit.training.steps import after_each_step, is_mid_step


class TerminationAgreement:
    """Asks before each batch whether any process received SIGTERM, and reads the answer before the next batch.

    By then the answer has reached the host, so nothing waits for it, and all processes read it at the same place. A step
    that has begun is finished, also where it accumulates the gradients of several batches: a checkpoint holds none.
    Lightning asks with a blocking broadcast in every step, which leaves the device without queued work at each step's
    beginning and costs a sharded step dozens of milliseconds. One process alone asks nobody.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.device = trainer.strategy.root_device
        self.signaled = False
        self._answer: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal and do nothing else: it may come anywhere in a step."""
        self.signaled = True

    def __call__(self) -> None:
        """Read the last answer and ask again.

        Raises:
            SIGTERMException: A process received SIGTERM before the last batch began, and a step is over.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        if self._answer is not None and self._answer.item() and not is_mid_step(self.trainer):
            raise SIGTERMException
        signaled = torch.full((), float(self.signaled), device=self.device)
        distributed.all_reduce(signaled, distributed.ReduceOp.MAX)
        self._answer = signaled.to("cpu", non_blocking=True)
        if self.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def end_alone(self) -> None:
        """Raise SIGTERMException where this process, the only one, received the signal and has steps left."""
        if self.signaled and not self.trainer.fit_loop.epoch_loop._is_training_done:
            raise SIGTERMException


def agree_on_termination(trainer: Trainer) -> None:
    """Replace Lightning's handling of SIGTERM by an agreement. Call it in every process once a fit has begun.

    Lightning ends one process after any batch, and in the middle of a validation, which is then never made up.
    """
    agreement = TerminationAgreement(trainer)
    if trainer.world_size > 1:
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = agreement
    else:
        after_each_step(trainer, agreement.end_alone)
    signal.signal(signal.SIGTERM, agreement.on_signal)  # the trainer restores the former handler at its end
