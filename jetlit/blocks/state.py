"""What blocks carry from one call to the next: the caches they use, and the modules that bring state along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn


class AttentionCache(Protocol):
    """What an attention block needs of its layer's cache."""

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, Hkv, T, D]; return those to attend to."""


class StateCache(Protocol):
    """What a linear block needs of its layer's cache: named tensors [N, ...] with the sequence in front."""

    def read(self, name: str) -> torch.Tensor | None:
        """Return the stored tensor itself (a block may update it in place), or None before the first write."""

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Store a tensor; once a tensor of that name is allocated, copy into it."""


class StateSpec(NamedTuple):
    """Shape of one sequence's carried tensor; `dtype` None is the dtype of the activations."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


class CarriedState:
    """What a block carries from one call to the next: the tensors of the layer's cache, or nothing without a cache.

    Attributes:
        kept: whether there is a cache to write final states to.
    """

    def __init__(self, cache: StateCache | None) -> None:
        self._cache = cache
        self.kept = cache is not None

    def read(self, name: str) -> torch.Tensor | None:
        """Return the carried tensor [N, ...], or None at the start of a sequence."""
        return None if self._cache is None else self._cache.read(name)

    def write(self, name: str, tensor: torch.Tensor | None) -> None:
        """Store a final state; do nothing without a cache."""
        if self._cache is not None and tensor is not None:
            self._cache.write(name, tensor)

    def recur(self, operator: Callable[..., Any], *inputs: torch.Tensor | None, **options: Any) -> torch.Tensor:
        """Run a recurrence of `jetlit_kernels` that starts from, and advances, the carried state "recurrent".

        Args:
            operator: takes `initial_state` and `output_final_state`, returns the output and the final state.
            *inputs: the operator's tensors.
            **options: the operator's other arguments.

        Returns:
            The output [B, T, h, V].
        """
        o, final = operator(*inputs, initial_state=self.read("recurrent"), output_final_state=self.kept, **options)
        self.write("recurrent", final)
        return o


class BlockPart(nn.Module):
    """A module that blocks are composed of and that brings its own state and initialization."""

    def state_specs(self) -> dict[str, StateSpec]:
        """Return name, shape and dtype of what the module carries, for one sequence."""
        return {}

    def init_weights(self) -> None:
        """Initialize the module's parameters."""

    def pass_through(self) -> None:
        """Let what comes from a pre-trained attention's projections pass unchanged, where that is possible."""
