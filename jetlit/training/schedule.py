"""The learning-rate schedule."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from jetlit.errors import UserError


class WarmupCosine(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then half a cosine down to a fraction of it.

    Args:
        optimizer: Its rate is set once a step.
        warmup_steps: Steps of the warm-up. The first step already has a rate above zero.
        final_fraction: The last rate as a fraction of the highest.
        total_steps: The step where the cosine ends and the rate stays. None takes the length of the fit, which a
            recipe sets with `end_at`.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, final_fraction: float = 0.1, total_steps: int | None = None
    ) -> None:
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.total_steps: float | None = total_steps
        super().__init__(optimizer, self.factor)

    def end_at(self, steps: float) -> None:
        """Set the length of the fit as `total_steps` unless one was given; infinity keeps the rate after the warm-up.

        Raises:
            UserError: The warm-up is longer than the fit.
        """
        if self.total_steps is None:
            self.total_steps = steps
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise UserError(
                f"A warm-up of {self.warmup_steps} steps does not fit a training of {self.total_steps}: "
                "raise trainer.max_steps, or shorten scheduler.init_args.warmup_steps."
            )

    def factor(self, step: int) -> float:
        """Return the rate of a step, counted from 0, as a fraction of the highest."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    def state_dict(self) -> dict[str, Any]:
        """Return the position alone: lengths come from the present config, so that a fit may be made longer."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count, "_last_lr": self._last_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position."""
        self.__dict__.update(state_dict)
