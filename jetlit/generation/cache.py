"""Preallocated caches of the engine: all keys and values, a ring of them, or a recurrent state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jetlit_kernels import window_attention

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import LinearMixer, TokenMixer
from jetlit.generation.chunk_attention import chunk_attention
from jetlit.models import JetNemotronForCausalLM
from jetlit.models.cache import StateLayer

# Takes a position [1], keys and values [B, KV heads, S, D]; stores a chunk's own there and returns its queries.
Store = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Clock:
    """Where generation stands; all layers share it.

    A captured graph sees only the tensors, the host only the numbers; both say the same between steps.

    Args:
        device: of the tensors.

    Attributes:
        position: [1] int64, of the next token.
        count: [1] int64, tokens visible to it, itself included.
        seen: tokens before it.
        capturing: the step is being captured, so that it must not depend on `seen`.
    """

    def __init__(self, device: torch.device) -> None:
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.count = torch.ones(1, dtype=torch.int64, device=device)
        self.seen = 0
        self.capturing = False

    def tick(self) -> None:
        """Moves the tensors to the next token; the host's number is moved by whoever runs or replays the step."""
        self.position.add_(1)
        self.count.add_(1)

    def move_to(self, position: int) -> None:
        """Sets every view of the position."""
        self.seen = position
        self.position.fill_(position)
        self.count.fill_(position + 1)


class KeyValueLayer:
    """Keys and values [B, KV heads, slots, D] of one attention layer, allocated once."""

    def __init__(self, attention: Attention, batch: int, slots: int, clock: Clock) -> None:
        weight = attention.k_proj.weight
        shape = (batch, attention.num_kv_heads, slots, attention.head_dim)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.slots = slots
        self.clock = clock

    def attend(self, store: Store, length: int, scaling: float) -> torch.Tensor:
        """Stores a chunk of `length` tokens and attends from it: returns [B, heads, T, D]."""
        raise NotImplementedError

    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values up to and with the token of this step, or all slots where that is not known."""
        # A graph's shapes are fixed, and its kernel stops at the count; outside of one there is less to look at.
        count = self.slots if self.clock.capturing else min(self.clock.seen + 1, self.slots)
        return self.keys[:, :, :count], self.values[:, :, :count]

    def byte_count(self) -> int:
        """Returns the bytes held."""
        return self.keys.nbytes + self.values.nbytes

    def reset(self) -> None:
        """Nothing to forget: what is stored is overwritten before it is visible."""


class FullLayer(KeyValueLayer):
    """Every token keeps its place."""

    def attend(self, store: Store, length: int, scaling: float) -> torch.Tensor:
        """See `KeyValueLayer.attend`."""
        query = store(self.clock.position, self.keys, self.values)
        end = self.clock.seen + length
        return chunk_attention(query, self.keys[:, :, :end], self.values[:, :, :end], scaling)


class RingLayer(KeyValueLayer):
    """The last `slots` tokens; token t lies in slot t mod slots, which attention does not mind: keys are rotated."""

    def attend(self, store: Store, length: int, scaling: float) -> torch.Tensor:
        """See `KeyValueLayer.attend`."""
        seen, device = self.clock.seen, self.keys.device
        past = torch.arange(max(0, seen - self.slots + 1), seen, device=device)
        keys, values = (self._in_order(ring, past, length) for ring in (self.keys, self.values))
        query = store(torch.full((1,), len(past), device=device), keys, values)
        kept = torch.arange(max(0, len(past) + length - self.slots), len(past) + length, device=device)
        slots = (kept + (seen - len(past))) % self.slots
        self.keys[:, :, slots], self.values[:, :, slots] = keys[:, :, kept], values[:, :, kept]
        return window_attention(query, keys, values, self.slots, scale=scaling)

    def _in_order(self, ring: torch.Tensor, past: torch.Tensor, length: int) -> torch.Tensor:
        """Returns the past tokens' entries in order, and room for `length` more."""
        batch, groups, _, size = ring.shape
        ordered = ring.new_empty(batch, groups, len(past) + length, size)
        ordered[:, :, : len(past)] = ring[:, :, past % self.slots]
        return ordered


class EngineCache:
    """The caches of all layers for a fixed number of sequences.

    Args:
        model: whose layers decide what is kept.
        batch: B.
        max_context: tokens of each sequence.
    """

    def __init__(self, model: JetNemotronForCausalLM, batch: int, max_context: int) -> None:
        device = model.lm_head.weight.device
        self.batch, self.max_context = batch, max_context
        self.layer_types = model.model.layer_types
        self.clock = Clock(device)
        self.layers = [self._layer(mixer) for mixer in active_mixers(model)]

    def _layer(self, mixer: TokenMixer) -> KeyValueLayer | StateLayer:
        if isinstance(mixer, Attention):
            if mixer.window_size is None:
                return FullLayer(mixer, self.batch, self.max_context, self.clock)
            return RingLayer(mixer, self.batch, min(mixer.window_size, self.max_context), self.clock)
        assert isinstance(mixer, LinearMixer)
        return _zero_state(mixer, self.batch)

    def reset(self) -> None:
        """Forgets the past but keeps every tensor where it is."""
        self.clock.move_to(0)
        for layer in self.layers:
            if isinstance(layer, StateLayer):
                for state in layer.states.values():
                    state.zero_()

    def byte_count(self) -> int:
        """Returns the bytes of every tensor held."""
        return sum(layer.byte_count() for layer in self.layers)


def active_mixers(model: JetNemotronForCausalLM) -> list[TokenMixer]:
    """Returns the token mixer of each layer; in a super network, that of the active path."""
    mixers = [layer.self_attn for layer in model.model.layers]
    return [mixer.paths[mixer.active] if hasattr(mixer, "paths") else mixer for mixer in mixers]


def computed_cache_bytes(model: JetNemotronForCausalLM, batch: int, context: int) -> int:
    """Returns the bytes of cache that `batch` sequences of `context` tokens need, from shapes alone."""
    dtype = model.lm_head.weight.dtype
    return sum(mixer.state_bytes(batch, context, dtype) for mixer in active_mixers(model))


def _zero_state(mixer: LinearMixer, batch: int) -> StateLayer:
    """A state of zeros is a sequence's beginning, and gives the tensors their place before a graph is captured."""
    layer = StateLayer()
    weight = mixer.o_proj.weight
    for name, spec in mixer.state_specs().items():
        layer.states[name] = torch.zeros(batch, *spec.shape, dtype=spec.dtype or weight.dtype, device=weight.device)
    return layer
