"""What happens when the loss is no number, or jumps."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.optim import Optimizer

from jetlit.errors import UserError
from jetlit.files import atomic_path
from jetlit.recipes.gradients import gradient_norm
from jetlit.recipes.steps import is_logged


class NanGuard(Callback):
    """Keeps a step with a non-finite loss or gradient, or with a loss spike, from reaching the weights.

    The batch is saved to `folder`, then training stops with an error or the step is skipped. Logs the gradient norm,
    before clipping, as `train/grad_norm`.

    Args:
        folder: where the offending batch is saved, as `bad_batch_stepN_rankR.pt`.
        action: "stop" raises; "skip" leaves the weights and the optimizer's state as they are and goes on.
        spike_factor: a loss above this many times its running mean counts as a spike; None: only non-finite ones.
        max_skips: more skipped steps than this in a row stop the training all the same.
    """

    def __init__(
        self,
        folder: str,
        action: Literal["stop", "skip"] = "stop",
        spike_factor: float | None = None,
        max_skips: int = 10,
    ) -> None:
        self.folder = Path(folder)
        self.action = action
        self.spike_factor = spike_factor
        self.max_skips = max_skips
        self.skipped = 0
        self._in_a_row = 0
        self._mean: float | None = None
        self._loss: Tensor | None = None
        self._batches: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        """The running mean and counts go on after a resume."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written."""
        self.skipped, self._in_a_row, self._mean = (state_dict[key] for key in ("skipped", "in_a_row", "mean"))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batches of this step; several when gradients are accumulated."""
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the step's loss (already divided by the number of accumulated batches)."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Judge the step once its gradients are whole."""
        norm = gradient_norm(trainer, optimizer)
        assert self._loss is not None
        loss, norm_value, fault = self._judged(self._loss.float(), norm.float())
        if is_logged(trainer, trainer.global_step + 1):
            pl_module.log("train/grad_norm", norm_value)
        if fault:
            self._refuse(trainer, self._fault(loss, norm_value) or "bad on another rank")
            for gradient_group in optimizer.param_groups:
                for parameter in gradient_group["params"]:
                    parameter.grad = None
        else:
            self._in_a_row = 0
            self._mean = loss if self._mean is None else 0.98 * self._mean + 0.02 * loss
        self._loss = None
        self._batches = []

    def _judged(self, loss: Tensor, norm: Tensor) -> tuple[float, float, bool]:
        """This rank's loss and norm, and whether any rank's step is at fault; the host waits for the device once."""
        highest = float("inf") if self._mean is None or self.spike_factor is None else self.spike_factor * self._mean
        fault = (~(loss.isfinite() & norm.isfinite()) | (loss > highest)).to(loss.dtype)
        if distributed.is_available() and distributed.is_initialized():
            # Ranks see different batches: what is bad on one is skipped on all.
            distributed.all_reduce(fault, distributed.ReduceOp.MAX)
        loss_value, norm_value, fault_value = torch.stack([loss, norm, fault]).tolist()
        return loss_value, norm_value, bool(fault_value)

    def _fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with this rank's step, in words."""
        if not abs(loss) < float("inf"):
            return f"{loss}"
        if not norm < float("inf"):
            return f"{loss:.4g} with a gradient norm of {norm}"
        if self.spike_factor is not None and self._mean is not None and loss > self.spike_factor * self._mean:
            return f"{loss:.4g}, over {self.spike_factor:g} times its running mean of {self._mean:.4g}"
        return None

    def _refuse(self, trainer: Trainer, fault: str) -> None:
        path = self.folder / f"bad_batch_step{trainer.global_step}_rank{trainer.global_rank}.pt"
        with atomic_path(path) as temporary:
            torch.save([{key: value.cpu() for key, value in batch.items()} for batch in self._batches], temporary)
        self.skipped += 1
        self._in_a_row += 1
        what = f"The loss of step {trainer.global_step} is {fault}; its batch is saved in {path}"
        if self.action == "stop" or self._in_a_row > self.max_skips:
            raise UserError(
                f"{what}: lower the learning rate, clip gradients (--trainer.gradient_clip_val 1.0), or skip such "
                "steps (--nan_guard.action skip)."
            )
        rank_zero_warn(f"{what}; the step is skipped.")
