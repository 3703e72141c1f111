"""The hybrid's cache: keys and values where a layer attends, a named state where it is recurrent."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from jetlit.errors import UserError
from jetlit.models.configuration import JetNemotronConfig


class StateLayer(CacheLayerMixin):
    """Named tensors [N, ...] of a linear block; their size does not depend on the context."""

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor | None:
        """Returns the stored tensor, or None before the first write."""
        return self.states.get(name)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Stores a tensor: in place once allocated, so that its address stays the same."""
        stored = self.states.get(name)
        if stored is None or stored.shape != tensor.shape:
            self.states[name] = tensor.detach().clone()
        elif stored is not tensor:
            stored.copy_(tensor)

    def reset(self) -> None:
        """Forgets the past."""
        self.states.clear()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keeps the sequences `beam_idx`, in that order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the sequences `indices`, in that order."""
        self.states = {name: state[indices.to(state.device)] for name, state in self.states.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every sequence."""
        self.states = {name: state.repeat_interleave(repeats, dim=0) for name, state in self.states.items()}

    def offload(self) -> None:
        """Moves the state to the CPU."""
        self.states = {name: state.to("cpu", non_blocking=True) for name, state in self.states.items()}

    def prefetch(self) -> None:
        """A state is moved when it is read by its block's device; nothing to do ahead of time."""

    def crop(self, tokens_to_remove: int) -> None:
        """A state cannot be rolled back."""
        if tokens_to_remove:
            raise UserError("A linear layer's state cannot be rolled back: choose a decoding method without roll-back.")

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: states are allocated by their first write."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuses: a linear layer has no keys."""
        raise TypeError("This layer is linear and keeps no keys and values; its block uses read and write.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """A linear layer needs no mask over keys."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """The state does not say; `HybridCache` counts."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def byte_count(self) -> int:
        """Returns the bytes held."""
        return sum(state.nbytes for state in self.states.values())


class HybridCache(Cache):
    """A transformers cache whose layer i is what block i needs.

    Args:
        config: of the model.
        max_length: allocate keys and values once for this many tokens; None lets them grow.
        layer_types: in place of the configuration's (a super network's active path).
    """

    def __init__(
        self, config: JetNemotronConfig, max_length: int | None = None, layer_types: list[str] | None = None
    ) -> None:
        self.config = config
        self.max_length = max_length
        self.layer_types = list(layer_types or config.layer_types or ())
        self.seen_tokens = 0
        super().__init__(layers=[self._new_layer(name) for name in self.layer_types])

    def _new_layer(self, name: str) -> CacheLayerMixin:
        if name == "attn":
            return DynamicLayer() if self.max_length is None else StaticLayer(max_cache_len=self.max_length)
        if name == "swa":
            window = self.config.window_size
            assert window is not None
            if self.max_length is None:
                return DynamicSlidingWindowLayer(sliding_window=window)
            return StaticSlidingWindowLayer(max_cache_len=self.max_length, sliding_window=window)
        return StateLayer()

    def check_room(self, new_tokens: int) -> None:
        """Raises UserError when `new_tokens` more do not fit."""
        if self.max_length is not None and self.seen_tokens + new_tokens > self.max_length:
            raise UserError(
                f"The cache holds {self.max_length} tokens and {self.seen_tokens + new_tokens} are needed: "
                "make it longer, or shorten the prompt."
            )

    def advance(self, new_tokens: int) -> None:
        """Counts tokens that every layer has now seen."""
        self.seen_tokens += new_tokens

    def mask_sizes(self, kind: str, q_length: int) -> tuple[int, int]:
        """Returns (number of keys, position of the first) for layers of a mask kind, "causal" or "sliding"."""
        name = "swa" if kind == "sliding" else "attn"
        layer = self.layers[self.layer_types.index(name)]
        assert isinstance(layer, CacheLayerMixin)
        return layer.get_mask_sizes(q_length)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the tokens seen, the same for every layer (an all-linear model counts too)."""
        return self.seen_tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Returns the longest context, or −1 when there is no limit."""
        return -1 if self.max_length is None else self.max_length

    @property
    def is_compileable(self) -> bool:
        """No: the tokens seen are counted on the host, so `generate` must not compile around this cache."""
        return False

    def reset(self) -> None:
        """Forgets the past."""
        super().reset()
        self.seen_tokens = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last tokens; only attention layers can."""
        super().crop(tokens_to_remove)
        self.seen_tokens -= abs(tokens_to_remove)

    def byte_count(self) -> int:
        """Returns the bytes of every tensor held."""
        return sum(_layer_bytes(layer) for layer in self.layers)


def _layer_bytes(layer: Any) -> int:
    if isinstance(layer, StateLayer):
        return layer.byte_count()
    return layer.keys.nbytes + layer.values.nbytes if layer.is_initialized else 0
