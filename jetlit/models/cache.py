"""The hybrid's cache: keys and values of attention layers, named states of linear ones."""

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

from jetlit.blocks import get_block
from jetlit.errors import UserError
from jetlit.models.configuration import JetNemotronConfig


class StateLayer(CacheLayerMixin):
    """Named tensors [N, ...] of a linear block, whose size does not depend on the context."""

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor | None:
        """Return the stored tensor, or None before the first write."""
        return self.states.get(name)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Store a tensor, in place once allocated, so that its address stays the same."""
        stored = self.states.get(name)
        if stored is None or stored.shape != tensor.shape:
            self.states[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        elif stored is not tensor:
            stored.copy_(tensor)

    def reset(self) -> None:
        """Forget the past."""
        self.states.clear()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the sequences `beam_idx`, in that order."""
        self.states = {name: state[beam_idx.to(state.device)] for name, state in self.states.items()}

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to remove tokens."""
        if tokens_to_remove:
            raise UserError("a linear layer's state holds all tokens together")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self.states = {name: state.repeat_interleave(repeats, 0) for name, state in self.states.items()}

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the sequences `indices`, in that order."""
        self.reorder_cache(indices)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the first write allocates a state."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuse keys and values."""
        raise TypeError("This layer is linear and keeps no keys and values; its block uses read and write.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return sizes without a past: a linear layer has no keys to mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: `HybridCache` counts."""
        return 0

    def get_max_length(self) -> int:
        """Return −1: there is no limit."""
        return -1


class HybridCache(Cache):
    """A transformers cache whose layer i is what block i needs.

    Args:
        config: configuration of the model.
        max_length: number of tokens for which keys and values are allocated once; None lets them grow.
        layer_types: replaces the configuration's, for a super network's active path.
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
        kind = get_block(name).mask_kind
        if kind == "causal":
            return DynamicLayer() if self.max_length is None else StaticLayer(max_cache_len=self.max_length)
        if kind == "sliding":
            window = self.config.block_config(name)["window_size"]
            if self.max_length is None:
                return DynamicSlidingWindowLayer(sliding_window=window)
            return StaticSlidingWindowLayer(max_cache_len=self.max_length, sliding_window=window)
        return StateLayer()

    def check_room(self, new_tokens: int) -> None:
        """Raise UserError if `new_tokens` more do not fit."""
        if self.max_length is not None and self.seen_tokens + new_tokens > self.max_length:
            raise UserError(
                f"The cache holds {self.max_length} tokens and {self.seen_tokens + new_tokens} are needed: "
                "make it longer, or shorten the prompt."
            )

    def mask_sizes(self, kind: str, q_length: int) -> tuple[int, int]:
        """Return (number of keys, position of the first) for layers of mask kind "causal" or "sliding"."""
        kinds: list[str] = [get_block(name).mask_kind for name in self.layer_types]
        return self.get_mask_sizes(q_length, kinds.index(kind))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens seen, the same for every layer."""
        return self.seen_tokens

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return the longest context in tokens, or −1 if there is no limit."""
        return -1 if self.max_length is None else self.max_length

    @property
    def is_compileable(self) -> bool:
        """False: the host counts the tokens seen, so `generate` must not compile around this cache."""
        return False

    def reset(self) -> None:
        """Forget the past."""
        super().reset()
        self.seen_tokens = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` tokens from every layer, or from none.

        Raises:
            UserError: a layer cannot be rolled back: a linear one, or a window that let go of what it would need.
        """
        before = [dict(vars(layer)) for layer in self.layers]
        try:
            if not -self.seen_tokens <= tokens_to_remove <= 0:
                raise ValueError(f"of {self.seen_tokens} tokens, {tokens_to_remove} is no negative number to remove")
            super().crop(tokens_to_remove)
        except (AttributeError, RuntimeError, ValueError) as error:
            for layer, values in zip(self.layers, before, strict=True):
                vars(layer).update(values)
            raise UserError(
                f"This cache cannot be rolled back ({error}): choose a decoding method without roll-back."
            ) from error
        self.seen_tokens += tokens_to_remove
