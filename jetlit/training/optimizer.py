"""The optimizer: its parameter groups, its learning rate, norms of gradients, and its state by parameter names."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from jetlit.errors import UserError
from jetlit.training.fsdp import is_sharded
from jetlit.values import Count, Fraction, NonNegativeInt, check_values

T = TypeVar("T")


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups, without an empty one: with weight decay and without.

    Vectors (norm weights, biases) take no weight decay, nor do parameters that their module names in
    `_no_weight_decay`, or that have this attribute themselves.

    Raises:
        UserError: No parameter is trainable.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    spared = {
        id(part.get_parameter(name)) for part in module.modules() for name in getattr(part, "_no_weight_decay", ())
    }
    for parameter in module.parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or id(parameter) in spared or getattr(parameter, "_no_weight_decay", False)
            (plain if exempt else decayed).append(parameter)
    if not decayed and not plain:
        raise UserError("No parameter is trainable: choose an architecture with at least one new token mixer.")
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_optimizer(optimizer: Any, scheduler: Any) -> None:
    """Try what makes a recipe's optimizer and schedule on a parameter of its own.

    Args:
        optimizer: Makes an optimizer from parameter groups.
        scheduler: Makes a schedule from the optimizer; None makes none.

    Raises:
        UserError: They make something else, or refuse their arguments.
    """
    made = _made(optimizer, parameter_groups(nn.Linear(1, 1)), Optimizer, "optimizer")
    for group in made.param_groups:
        for name, value in group.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"The optimizer's {name} is {value}: give a finite number.")
    if scheduler is None:
        return
    if isinstance(_made(scheduler, made, LRScheduler, "scheduler"), ReduceLROnPlateau):
        raise UserError("A recipe's schedule counts steps: choose one that needs no monitored value.")


def _made(factory: Any, argument: Any, kind: type[T], what: str) -> T:
    try:
        made = factory(argument)
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"The {what} cannot be made ({' '.join(str(error).split())}): correct its arguments."
        ) from error
    if not isinstance(made, kind):
        raise UserError(f"The {what} is a {type(made).__name__}: give a class of torch.optim, or a subclass of one.")
    return made


class WarmupCosine(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then half a cosine down to a fraction of it.

    Args:
        optimizer: Its rate is set once a step.
        warmup_steps: Steps of the warm-up. The first step already has a rate above zero.
        final_fraction: The last rate as a fraction of the highest.
        total_steps: The step where the cosine ends and the rate stays. None takes the length of the fit (`end_at`).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: NonNegativeInt = 0,
        final_fraction: Fraction = 0.1,
        total_steps: Count | None = None,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.total_steps: float | None = total_steps
        check_values(WarmupCosine.__init__, vars(self))
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
        """Return only the position: lengths come from the present config, so that a fit may be made longer."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count, "_last_lr": self._last_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position, at the rate that the present lengths give it."""
        self.__dict__.update(state_dict)
        for group, highest in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = highest * self.factor(self.last_epoch)


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of tensors, those that are spread over processes (DTensors) taken whole."""
    norm = nn.utils.get_total_norm(list(tensors))
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def name_states(states: list[dict[str, Any]], optimizers: list[Optimizer], module: nn.Module) -> list[dict[str, Any]]:
    """Replace parameter numbers by parameter names in the state dictionaries of optimizers.

    PyTorch numbers parameters in the order of the optimizer's groups. Lightning's ModelParallelStrategy reads such
    numbers as positions in `module.parameters()`, frozen ones included. `load_state_dict` takes names as well, so a
    checkpoint with names can be resumed by any number of processes. A state is empty where another process has it.
    """
    names = {parameter: clean_tensor_name(name) for name, parameter in module.named_parameters()}
    named = []
    for state, optimizer in zip(states, optimizers, strict=True):
        # Lightning's sharded strategy has numbered them by the module, the optimizer itself by its groups.
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbered = list(module.parameters()) if is_sharded(module) else own
        named.append(_rename(state, [names[parameter] for parameter in numbered]))
    return named


def _rename(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    if not state:
        return state

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) else key

    groups = [{**group, "params": [name(key) for key in group["params"]]} for group in state["param_groups"]]
    return {**state, "state": {name(key): value for key, value in state["state"].items()}, "param_groups": groups}
