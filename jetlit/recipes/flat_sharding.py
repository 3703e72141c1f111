"""Lightning's older FSDP, fit for recipes.

Each of its units keeps its parameters flattened into one, of which every process holds a piece: outside of a step a
parameter's shape and gradient are the piece's.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

from jetlit.errors import UserError


class FlatShardingStrategy(FSDPStrategy):
    """As the base class, with three differences.

    A recipe is wrapped once, so that the validation after training runs on the wrapped weights. Weights are gathered
    and gradients added up in float32, and autocast casts, as under other strategies: Lightning would have bfloat16
    everywhere, gates and rotary frequencies included. And Lightning lets it run on CPUs, where its tests are.
    """

    _root: FullyShardedDataParallel | None = None

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """What the caller asked for and nothing else."""
        return self.mixed_precision

    def _setup_model(self, model: nn.Module) -> nn.Module:
        if self._root is not None and self._root.module is model:
            return self._root
        for parameter in model.parameters():
            parameter.whole_shape = parameter.shape  # type: ignore[attr-defined]
        self._root = FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **self.kwargs,
        )
        self.kwargs.pop("auto_wrap_policy", None)  # done
        return super()._setup_model(self._root)


def check_strategy(strategy: Any) -> None:
    """Refuse Lightning's own class, under which no weight would decay and the last validation fail.

    Raises:
        UserError: the strategy is Lightning's.
    """
    if isinstance(strategy, FSDPStrategy) and not isinstance(strategy, FlatShardingStrategy):
        raise UserError(
            "Lightning's own FSDP strategy does not train a recipe rightly: take configs/strategy/fsdp.yaml, or better "
            "configs/strategy/fsdp2.yaml."
        )


def whole_shape(parameter: Tensor) -> torch.Size:
    """A parameter's shape, also where this process holds a flat piece of it."""
    shape: torch.Size = getattr(parameter, "whole_shape", parameter.shape)
    return shape


def flat_root(trainer: Any) -> FullyShardedDataParallel | None:
    """The outermost unit where a trainer shards this way, otherwise None."""
    root = trainer.strategy.model
    return root if isinstance(root, FullyShardedDataParallel) else None


def outside_of_steps(trainer: Any) -> AbstractContextManager[None]:
    """Where the model may run although no step of the recipe gathers what lies outside of its layers."""
    root = flat_root(trainer)
    if root is None:
        return nullcontext()
    gathered: Any = FullyShardedDataParallel.summon_full_params(root, recurse=False, writeback=False)
    return gathered
