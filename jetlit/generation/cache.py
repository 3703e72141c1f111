"""The engine's preallocated caches: all keys and values, a ring of them, or a recurrent state."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jetlit_kernels import window_attention
from torch.nn.attention.bias import causal_lower_right

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import LinearMixer, TokenMixer
from jetlit.models import JetNemotronForCausalLM
from jetlit.models.cache import StateLayer

# Takes a position [1], keys and values [B, KV heads, S, D]; stores a chunk's own there and returns its queries.
Store = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Clock:
    """The position in the sequences, which all layers share: tensors for a captured graph, a number for the host."""

    def __init__(self, device: torch.device) -> None:
        self.position = torch.zeros(1, dtype=torch.int64, device=device)  # of the next token
        self.count = torch.ones(1, dtype=torch.int64, device=device)  # of the tokens visible to it, itself included
        self.seen = 0  # number of tokens before it, equal to `position` between steps
        self.capturing = False  # whether the step is being captured and must not depend on `seen`

    def tick(self) -> None:
        """Move the tensors to the next token; the caller of the step moves `seen`."""
        self.position.add_(1)
        self.count.add_(1)

    def move_to(self, position: int) -> None:
        """Set the position, on device and host."""
        self.seen = position
        self.position.fill_(position)
        self.count.fill_(position + 1)


class FullLayer:
    """Keys and values [B, KV heads, slots, D] of one attention layer, allocated once; token t in slot t."""

    def __init__(self, attention: Attention, batch: int, slots: int, clock: Clock) -> None:
        weight = attention.k_proj.weight
        shape = (batch, attention.num_kv_heads, slots, attention.head_dim)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.slots = slots
        self.clock = clock

    def attend(self, store: Store, length: int, scaling: float) -> torch.Tensor:
        """Store a chunk of `length` tokens and return its attention [B, heads, T, D]."""
        query = store(self.clock.position, self.keys, self.values)
        end = self.clock.seen + length
        return chunk_attention(query, self.keys[:, :, :end], self.values[:, :, :end], scaling)

    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values up to this step's token, or all slots while capturing."""
        # A graph's shapes are fixed, and its kernel stops at the count.
        count = self.slots if self.clock.capturing else min(self.clock.seen + 1, self.slots)
        return self.keys[:, :, :count], self.values[:, :, :count]


class RingLayer(FullLayer):
    """The last `slots` tokens, token t in slot t mod slots; keys are rotated, so their order does not matter."""

    def attend(self, store: Store, length: int, scaling: float) -> torch.Tensor:
        """See `FullLayer.attend`."""
        seen, device = self.clock.seen, self.keys.device
        past = torch.arange(max(0, seen - self.slots + 1), seen, device=device)
        keys, values = (self._in_order(ring, past, length) for ring in (self.keys, self.values))
        query = store(torch.full((1,), len(past), device=device), keys, values)
        kept = torch.arange(max(0, len(past) + length - self.slots), len(past) + length, device=device)
        slots = (kept + (seen - len(past))) % self.slots
        self.keys[:, :, slots], self.values[:, :, slots] = keys[:, :, kept], values[:, :, kept]
        return window_attention(query, keys, values, self.slots, scale=scaling)

    def _in_order(self, ring: torch.Tensor, past: torch.Tensor, length: int) -> torch.Tensor:
        """Return the past tokens' entries in order, with room for `length` more."""
        batch, groups, _, size = ring.shape
        ordered = ring.new_empty(batch, groups, len(past) + length, size)
        ordered[:, :, : len(past)] = ring[:, :, past % self.slots]
        return ordered


class EngineCache:
    """The caches of all layers for `batch` sequences of `max_context` tokens; their tensors stay in place."""

    def __init__(self, model: JetNemotronForCausalLM, batch: int, max_context: int) -> None:
        device = model.lm_head.weight.device
        self.batch, self.max_context = batch, max_context
        self.layer_types = model.model.layer_types
        self.clock = Clock(device)
        self.layers = [self._layer(mixer) for mixer in active_mixers(model)]

    def _layer(self, mixer: TokenMixer) -> FullLayer | StateLayer:
        if isinstance(mixer, Attention):
            if mixer.window_size is None:
                return FullLayer(mixer, self.batch, self.max_context, self.clock)
            return RingLayer(mixer, self.batch, min(mixer.window_size, self.max_context), self.clock)
        assert isinstance(mixer, LinearMixer)
        layer, weight = StateLayer(), mixer.o_proj.weight
        for name, spec in mixer.state_specs().items():
            shape, dtype = (self.batch, *spec.shape), spec.dtype or weight.dtype
            layer.states[name] = torch.zeros(shape, dtype=dtype, device=weight.device)
        return layer

    def reset(self) -> None:
        """Forget the past without moving a tensor; keys and values are overwritten before they are visible."""
        self.clock.move_to(0)
        for layer in self.layers:
            if isinstance(layer, StateLayer):
                for state in layer.states.values():
                    state.zero_()

    def byte_count(self) -> int:
        """Return the bytes of all layers."""
        tensors: list[torch.Tensor] = []
        for layer in self.layers:
            tensors += layer.states.values() if isinstance(layer, StateLayer) else (layer.keys, layer.values)
        return sum(tensor.nbytes for tensor in tensors)


def active_mixers(model: JetNemotronForCausalLM) -> list[TokenMixer]:
    """Return each layer's token mixer; in a super network, of the active path."""
    mixers = [layer.self_attn for layer in model.model.layers]
    return [mixer.paths[mixer.active] if hasattr(mixer, "paths") else mixer for mixer in mixers]


def computed_cache_bytes(model: JetNemotronForCausalLM, batch: int, context: int) -> int:
    """Return the bytes of cache for `batch` sequences of `context` tokens, computed from shapes."""
    dtype = model.lm_head.weight.dtype
    return sum(mixer.state_bytes(batch, context, dtype) for mixer in active_mixers(model))


def chunk_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attend causally from a chunk whose past comes first among the keys, without copies of shared keys.

    `query` and the result are [B, heads, T, D], `key` and `value` are [B, KV heads, past + T, D].
    """
    bias = causal_lower_right(query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling, enable_gqa=True)
