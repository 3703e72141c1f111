"""Steps whose loss or gradient is not finite, or whose loss jumps."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.optim import Optimizer

from jetlit.errors import UserError
from jetlit.files import atomic_path
from jetlit.training.logger import is_logged
from jetlit.training.optimizer import global_norm
from jetlit.values import NonNegativeInt, PositiveFloat


class NanGuard(Callback):
    """Keeps a step with a non-finite loss or gradient, or with a loss spike, from reaching the weights.

    The batch is saved to `folder`. Then training stops with an error, or the step is skipped. The gradient norm before
    clipping is logged as `train/grad_norm`.

    Args:
        folder: For the bad batch, saved as `bad_batch_stepN_rankR.pt`.
        action: "stop" raises; "skip" leaves the weights and the optimizer state as they are.
        spike_factor: A loss above this many times its running mean is a spike. None checks only for non-finite ones.
        max_skips: More skipped steps than this in a row stop the training.
    """

    def __init__(
        self,
        folder: str,
        action: Literal["stop", "skip"] = "stop",
        spike_factor: PositiveFloat | None = None,
        max_skips: NonNegativeInt = 10,
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
        """Return the running mean and the counts."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row, "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the running mean and the counts."""
        self.skipped, self._in_a_row, self._mean = (state_dict[key] for key in ("skipped", "in_a_row", "mean"))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batches of a step; there are several when gradients are accumulated."""
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the loss of a step, unscaled; Lightning has divided it by the number of accumulated batches."""
        loss = loss.detach() / _scale(trainer)
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Judge the step once its gradients are complete.

        Raises:
            UserError: The step is bad, and is not to be skipped.
        """
        assert self._loss is not None
        gradients = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
        norm_of_all = global_norm(gradient for gradient in gradients if gradient is not None)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            norm_of_all = norm_of_all / _scale(trainer)  # such an optimizer unscales in its step
        # An epoch's last step may have fewer batches than the loss was divided by.
        mean = self._loss.float() * (trainer.accumulate_grad_batches / max(len(self._batches), 1))
        loss, norm, is_bad = self._judge(mean, norm_of_all.float(), _scaler(trainer) is not None)
        if is_logged(trainer, trainer.global_step + 1):
            pl_module.log("train/grad_norm", norm)
        if is_bad:
            self._reject(trainer, self._describe(loss, norm))
            optimizer.zero_grad()
        else:
            self._in_a_row = 0
            self._mean = loss if self._mean is None else 0.98 * self._mean + 0.02 * loss
        self._loss = None
        self._batches = []

    @property
    def _highest(self) -> float:
        return float("inf") if self._mean is None or self.spike_factor is None else self.spike_factor * self._mean

    def _judge(self, loss: Tensor, norm: Tensor, scaled: bool) -> tuple[float, float, bool]:
        """Return this rank's loss and norm, and whether the step is bad on any rank; wait for the device once.

        Where an fp16 scaler is at work, a gradient that overflows is its affair: it skips the step and scales less.
        """
        finite = loss.isfinite() if scaled else loss.isfinite() & norm.isfinite()
        is_bad = (~finite | (loss > self._highest)).to(loss.dtype)
        if distributed.is_available() and distributed.is_initialized():
            # Ranks see different batches: a step that is bad on one is skipped on all.
            distributed.all_reduce(is_bad, distributed.ReduceOp.MAX)
        loss_value, norm_value, bad_value = torch.stack([loss, norm, is_bad]).tolist()
        return loss_value, norm_value, bool(bad_value)

    def _describe(self, loss: float, norm: float) -> str:
        if not abs(loss) < float("inf"):
            return f"{loss}"
        if not norm < float("inf"):
            return f"{loss:.4g} with a gradient norm of {norm}"
        if loss > self._highest:
            return f"{loss:.4g}, over {self.spike_factor:g} times its running mean of {self._mean:.4g}"
        return "bad on another rank"

    def _reject(self, trainer: Trainer, fault: str) -> None:
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


def _scaler(trainer: Trainer) -> Any:
    """Return the gradient scaler of fp16 training, or None."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _scale(trainer: Trainer) -> Tensor | float:
    scaler = _scaler(trainer)
    # Not get_scale, which waits for the device. The scale is made at the first loss.
    return 1.0 if scaler is None else scaler._get_scale_async() if scaler._scale is not None else scaler.get_scale()
