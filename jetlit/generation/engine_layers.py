"""Decoder layers as the engine runs them: the model's weights in fewer, larger operations.

A decode step of a few sequences is bound by reading weights, and each launch costs as much as reading some megabytes.
So projections of one input are merged, and norms, activations and residuals are fused into the products
(`jetlit_kernels.narrow_linear`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import decode_attention, narrow_linear, rotate_and_store, silu_mul
from torch import nn

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import LinearMixer, TokenMixer
from jetlit.blocks.projections import checked, is_plain
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.generation.cache import Store, active_mixers
from jetlit.generation.merging import merge_linears
from jetlit.models import JetNemotronForCausalLM
from jetlit.models.decoder_layer import DecoderLayer, GatedMLP

_Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin, each [1, T, D]


def build_layers(model: JetNemotronForCausalLM) -> list[EngineLayer]:
    """Return the engine's layers and merge the model's weights in place.

    Raises:
        UserError: a module that the engine does not call is more than its weights (adapters, hooks, quantization).
    """
    checked(model, type(model))
    checked(model.model, type(model.model))
    checked(model.model.norm, RMSNorm)
    checked(model.lm_head)
    layers = [EngineLayer(*pair) for pair in zip(model.model.layers, active_mixers(model), strict=True)]
    if model.lm_head.weight.is_cuda:
        torch.cuda.empty_cache()  # the blocks of the unmerged weights are too small for a large tensor
    return layers


class EngineLayer:
    """One decoder layer with its (in a super network, active) token mixer."""

    def __init__(self, layer: DecoderLayer, mixer: TokenMixer) -> None:
        checked(layer, DecoderLayer)
        self.mixer_norm = checked(layer.input_layernorm, RMSNorm)
        self.mlp_norm = checked(layer.post_attention_layernorm, RMSNorm)
        self.mixer = _mixer(mixer)
        swiglu = isinstance(layer.mlp, GatedMLP) and is_plain(layer.mlp, GatedMLP) and layer.mlp.is_swiglu
        self.mlp = _SwiGLU(layer.mlp) if swiglu else _MLP(layer.mlp)

    def prefill(self, hidden: torch.Tensor, rotation: _Rotation, cache: Any, only_last: bool) -> torch.Tensor:
        """Run a chunk of the prompt, [B, T, H] to [B, T, H], or to the last token's output [B, H]."""
        mixed = self.mixer.chunk(hidden, self.mixer_norm, rotation, cache)
        if only_last:
            return self.mlp.token(mixed[:, -1].contiguous(), self.mlp_norm)
        return self.mlp.chunk(mixed, self.mlp_norm)

    def decode(self, hidden: torch.Tensor, rotation: _Rotation, cache: Any) -> torch.Tensor:
        """Run one token of each sequence, [B, H] to [B, H]."""
        return self.mlp.token(self.mixer.token(hidden, self.mixer_norm, rotation, cache), self.mlp_norm)


def _add_linear(hidden: torch.Tensor, x: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    """Add linear(x) to `hidden` [B, T, H] in place, as part of the product."""
    hidden.flatten(0, 1).addmm_(x.flatten(0, 1), linear.weight.T)
    return hidden if linear.bias is None else hidden.add_(linear.bias)


class _MLP:
    """Any MLP, run as the model does. Both methods return hidden + MLP(norm(hidden)) and may overwrite `hidden`."""

    def __init__(self, mlp: nn.Module) -> None:
        self.mlp = mlp

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:  # [B, T, H]
        return hidden + self.mlp(norm(hidden))

    def token(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:  # [B, H]
        return hidden + self.mlp(norm(hidden))


class _SwiGLU(_MLP):
    """A gated MLP with SiLU, whose gate and up projections are one product."""

    def __init__(self, mlp: GatedMLP) -> None:
        self.weight, self.bias = merge_linears([mlp.gate_proj, mlp.up_proj])
        self.down = checked(mlp.down_proj)

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        inner = silu_mul(*F.linear(norm(hidden), self.weight, self.bias).chunk(2, -1))
        return _add_linear(hidden, inner, self.down)

    def token(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        inner = narrow_linear(hidden, self.weight, self.bias, norm_weight=norm.weight, norm_eps=norm.eps, swiglu=True)
        return narrow_linear(inner, self.down.weight, self.down.bias, add_to=hidden)


def _mixer(mixer: TokenMixer) -> _Mixer:
    if isinstance(mixer, Attention):
        return _Attention(checked(mixer, type(mixer)))
    if isinstance(mixer, LinearMixer) and is_plain(mixer, type(mixer)) and mixer.step_inputs():
        return _Step(mixer)
    return _Mixer(mixer)


class _Mixer:
    """Any linear block, run as the model does. Both methods return hidden + mixer(norm(hidden)), as for `_MLP`."""

    def __init__(self, mixer: TokenMixer) -> None:
        self.mixer = mixer

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        return hidden + self.mixer(norm(hidden), cache=cache)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        return self.chunk(hidden[:, None], norm, rotation, cache)[:, 0]


class _Attention(_Mixer):
    """Attention whose queries, keys and values are one product, rotated and stored in one launch."""

    def __init__(self, attention: Attention) -> None:
        self.weight, self.bias = merge_linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self.scaling, self.out = attention.scaling, checked(attention.o_proj)
        norms: Any = [checked(n, RMSNorm) for n in (attention.q_norm, attention.k_norm) if type(n) is not nn.Identity]
        self.norms = (norms[0].weight, norms[1].weight) if norms else None
        self.norm_eps = norms[0].eps if norms else 0.0

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        projected = F.linear(norm(hidden), self.weight, self.bias)
        output = cache.attend(self._store(projected, rotation), hidden.shape[1], self.scaling)
        return _add_linear(hidden, output.transpose(1, 2).flatten(2), self.out)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        projected = narrow_linear(hidden, self.weight, self.bias, norm_weight=norm.weight, norm_eps=norm.eps)
        query = self._store(projected[:, None], rotation)(cache.clock.position, cache.keys, cache.values)
        keys, values = cache.filled()
        output = decode_attention(query[:, :, 0], keys, values, cache.clock.count, scale=self.scaling)
        return narrow_linear(output.flatten(1), self.out.weight, self.out.bias, add_to=hidden)

    def _store(self, projected: torch.Tensor, rotation: _Rotation) -> Store:
        cos, sin = rotation[0][0], rotation[1][0]
        return functools.partial(rotate_and_store, projected, cos, sin, norm_weights=self.norms, norm_eps=self.norm_eps)


class _Step(_Mixer):
    """A block with a step, of which the projections are one product and the residual is part of the last one."""

    def __init__(self, block: LinearMixer) -> None:
        super().__init__(block)
        for name, kind in block.step_reads().items():
            checked(block.get_submodule(name), kind)
        linears = block.step_inputs()
        self.weight, self.bias = merge_linears(linears)
        self.sizes = [linear.out_features for linear in linears]
        self.block, self.out = block, checked(block.o_proj)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        projected = narrow_linear(hidden, self.weight, self.bias, norm_weight=norm.weight, norm_eps=norm.eps)
        output = self.block.step(projected.split(self.sizes, 1), cache.states)
        return narrow_linear(output, self.out.weight, self.out.bias, add_to=hidden)
