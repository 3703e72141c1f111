"""What is optimised and how fast: parameter groups and the learning-rate schedule."""

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from jetlit.errors import UserError
from jetlit.recipes.flat_sharding import whole_shape


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: matrices, and what must not decay.

    Norms' weights, biases and other vectors take no weight decay, nor do parameters that say so themselves by
    `_no_weight_decay` (the JetBlock's A_log and dt_bias).

    Args:
        module: whose parameters; those that require no gradient are left out.

    Returns:
        Optimizer groups; the second has `weight_decay` 0. A group without parameters is left out.

    Raises:
        UserError: nothing is trainable.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            spared = len(whole_shape(parameter)) < 2 or getattr(parameter, "_no_weight_decay", False)
            (plain if spared else decayed).append(parameter)
    if not decayed and not plain:
        raise UserError("No parameter is trainable: choose an architecture with at least one new token mixer.")
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class WarmupCosine(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then half a cosine down to a fraction of it.

    Args:
        optimizer: whose rate is set, once a step.
        warmup_steps: steps of the warm-up; the first step already has a rate above zero.
        final_fraction: the last rate as a fraction of the highest.
        total_steps: where the cosine ends, the rate staying there; None: with the fit, as a recipe tells by `end_at`.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, final_fraction: float = 0.1, total_steps: int | None = None
    ) -> None:
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.total_steps = total_steps
        super().__init__(optimizer, self.factor)

    def end_at(self, steps: int) -> None:
        """Take the fit's length where no total was given.

        Raises:
            UserError: the warm-up is longer than the training.
        """
        if self.total_steps is None:
            self.total_steps = steps
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise UserError(
                f"A warm-up of {self.warmup_steps} steps does not fit a training of {self.total_steps}: "
                "raise trainer.max_steps, or shorten scheduler.init_args.warmup_steps."
            )

    def factor(self, step: int) -> float:
        """The rate of the step of that number, counted from 0, relative to the highest."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    def state_dict(self) -> dict[str, Any]:
        """The steps taken; lengths are the present config's own, so that a longer fit may go on from a shorter."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count, "_last_lr": self._last_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written."""
        self.__dict__.update(state_dict)
