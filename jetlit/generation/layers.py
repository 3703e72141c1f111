"""Decoder layers as the engine runs them: the model's weights, with fewer and larger steps between them.

A decode step of a few sequences is bound by reading weights, and each launch costs as much as reading some megabytes.
So projections of one input are merged, and norms, activations and residuals are part of the products
(`jetlit_kernels.narrow_linear`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import decode_attention, jet_decode_step, narrow_linear, rotate_and_store, silu_mul
from torch import nn

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import TokenMixer
from jetlit.blocks.gated_delta_net import GatedDeltaNet
from jetlit.blocks.jet import JetBlock
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.blocks.short_convolution import ShortConvolution
from jetlit.generation.cache import EngineCache, KeyValueLayer, active_mixers
from jetlit.generation.merging import merge_linears
from jetlit.models import JetNemotronForCausalLM
from jetlit.models.cache import StateLayer
from jetlit.models.layers import DecoderLayer, GatedMLP

Rotation = tuple[torch.Tensor, torch.Tensor]


def build_layers(model: JetNemotronForCausalLM, cache: EngineCache) -> list[EngineLayer]:
    """Returns the model's layers around a cache; weights are moved so that they can be merged, never copied."""
    layers = [
        EngineLayer(layer, mixer, kept)
        for layer, mixer, kept in zip(model.model.layers, active_mixers(model), cache.layers, strict=True)
    ]
    if model.lm_head.weight.is_cuda:
        # Where single weights were before, no large tensor finds room.
        torch.cuda.empty_cache()
    return layers


class EngineLayer:
    """One decoder layer.

    Args:
        layer: whose weights it uses.
        mixer: the layer's token mixer; in a super network, the active one.
        cache: of the layer.
    """

    def __init__(self, layer: DecoderLayer, mixer: TokenMixer, cache: KeyValueLayer | StateLayer) -> None:
        self.mixer_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.mixer = mixer_step(mixer, cache)
        self.mlp = MLPStep(layer.mlp) if MLPStep.serves(layer.mlp) else PlainMLP(layer.mlp)

    def prefill(self, hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Runs a chunk of the prompt: [B, T, H] to [B, T, H]; (cos, sin) are [1, T, D]."""
        return self.mlp.chunk(self.mixer.chunk(hidden, self.mixer_norm, rotation), self.mlp_norm)

    def decode(self, hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Runs one token of each sequence: [B, H] to [B, H]; (cos, sin) are [1, 1, D]."""
        return self.mlp.token(self.mixer.token(hidden, self.mixer_norm, rotation), self.mlp_norm)


class PlainMLP:
    """An MLP of any kind, as the model has it."""

    def __init__(self, mlp: nn.Module) -> None:
        self.mlp = mlp

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """Returns hidden + MLP(norm(hidden)), [B, T, H]; `hidden` may be overwritten."""
        return hidden + self.mlp(norm(hidden))

    def token(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """The same for [B, H]."""
        return hidden + self.mlp(norm(hidden))


class MLPStep:
    """A gated MLP with SiLU: gate and up are one product."""

    def __init__(self, mlp: GatedMLP) -> None:
        self.weight, self.bias = merge_linears([mlp.gate_proj, mlp.up_proj])
        self.down = mlp.down_proj

    @staticmethod
    def serves(mlp: nn.Module) -> bool:
        """Whether the MLP is of this kind."""
        return isinstance(mlp, GatedMLP) and mlp.is_swiglu

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """See `PlainMLP.chunk`."""
        inner = silu_mul(*F.linear(norm(hidden), self.weight, self.bias).chunk(2, -1))
        # The product adds to the residual where it lies, which saves a pass over both.
        hidden.flatten(0, 1).addmm_(inner.flatten(0, 1), self.down.weight.T)
        return hidden if self.down.bias is None else hidden.add_(self.down.bias)

    def token(self, hidden: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        """See `PlainMLP.token`."""
        inner = narrow_linear(hidden, self.weight, self.bias, norm_weight=norm.weight, norm_eps=norm.eps, swiglu=True)
        return narrow_linear(inner, self.down.weight, self.down.bias, residual=hidden)


def mixer_step(mixer: TokenMixer, cache: KeyValueLayer | StateLayer) -> MixerStep | AttentionStep:
    """Returns the steps of a token mixer."""
    if isinstance(cache, KeyValueLayer):
        assert isinstance(mixer, Attention)
        return AttentionStep(mixer, cache)
    if isinstance(mixer, JetBlock) and mixer.q_proj.bias is None:
        return JetStep(mixer, cache)
    if isinstance(mixer, GatedDeltaNet) and mixer.q_proj.bias is None:
        return GatedDeltaNetStep(mixer, cache)
    return MixerStep(mixer, cache)


class MixerStep:
    """A linear block of any kind, as the model has it."""

    def __init__(self, mixer: TokenMixer, cache: StateLayer) -> None:
        self.mixer, self.cache = mixer, cache

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """Returns hidden + mixer(norm(hidden)), [B, T, H]."""
        return hidden + self.mixer(norm(hidden), cache=self.cache)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """The same for one token of each sequence, [B, H]."""
        return self.chunk(hidden[:, None], norm, rotation)[:, 0]


class AttentionStep:
    """Attention: queries, keys and values are one product, rotated and stored in one launch."""

    def __init__(self, attention: Attention, cache: KeyValueLayer) -> None:
        self.weight, self.bias = merge_linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self.attention, self.cache, self.out = attention, cache, attention.o_proj
        norms: Any = (attention.q_norm, attention.k_norm)
        self.norms = (norms[0].weight, norms[1].weight) if isinstance(norms[0], RMSNorm) else None
        self.norm_eps = norms[0].eps if self.norms else 0.0

    def chunk(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """See `MixerStep.chunk`."""
        projected = F.linear(norm(hidden), self.weight, self.bias)
        store = functools.partial(self._store, projected, rotation)
        output = self.cache.attend(store, hidden.shape[1], self.attention.scaling)
        return hidden + self.out(output.transpose(1, 2).flatten(2))

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """See `MixerStep.token`."""
        cache, clock = self.cache, self.cache.clock
        projected = narrow_linear(hidden, self.weight, self.bias, norm_weight=norm.weight, norm_eps=norm.eps)
        query = self._store(projected[:, None], rotation, clock.position, cache.keys, cache.values)
        keys, values = cache.filled()
        output = decode_attention(query[:, :, 0], keys, values, clock.count, scale=self.attention.scaling)
        return narrow_linear(output.flatten(1), self.out.weight, self.out.bias, residual=hidden)

    def _store(
        self,
        projected: torch.Tensor,
        rotation: Rotation,
        position: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        cos, sin = rotation[0][0], rotation[1][0]
        return rotate_and_store(
            projected, cos, sin, position, keys, values, norm_weights=self.norms, norm_eps=self.norm_eps
        )


class DeltaStep(MixerStep):
    """What the steps of gated delta rules share: merged projections, and the state's update up to the output.

    Args:
        block: whose weights it uses.
        linears: the block's projections of its input, none with a bias.
        cache: of the layer.
        conv_state: name of the state of the values' convolution.
    """

    def __init__(
        self, block: JetBlock | GatedDeltaNet, linears: list[nn.Linear], cache: StateLayer, conv_state: str
    ) -> None:
        super().__init__(block, cache)
        self.weight, _ = merge_linears(linears)
        self.sizes = [linear.out_features for linear in linears]
        self.block, self.conv_state = block, conv_state

    def project(self, hidden: torch.Tensor, norm: RMSNorm) -> tuple[torch.Tensor, ...]:
        """Returns every projection [B, outputs] of the normed input."""
        return narrow_linear(hidden, self.weight, norm_weight=norm.weight, norm_eps=norm.eps).split(self.sizes, 1)

    def update(
        self,
        hidden: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        gate: torch.Tensor,
        beta: torch.Tensor,
        a: torch.Tensor,
        kernels: torch.Tensor,
    ) -> torch.Tensor:
        """Steps the states and adds the output to `hidden`; `kernels` [B, h·V, W] convolve the values."""
        block, states = self.block, self.cache.states
        o = jet_decode_step(
            *(block.split_heads(x) for x in (q, k, v, gate)),
            beta,
            a,
            kernels,
            block.A_log,
            block.dt_bias,
            block.o_norm.weight,
            states[self.conv_state],
            states["recurrent"],
            norm_eps=block.norm_eps,
        )
        return narrow_linear(o.flatten(1), block.o_proj.weight, residual=hidden)


class JetStep(DeltaStep):
    """A JetBlock's step: all seven projections of its input are one product."""

    def __init__(self, block: JetBlock, cache: StateLayer) -> None:
        generator = block.dynamic_conv1d.kernel_generator
        linears = [block.q_proj, block.k_proj, block.v_proj, block.g_proj, generator.w1, block.b_proj, block.a_proj]
        super().__init__(block, linears, cache, "conv")
        self.w2 = generator.w2

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """See `MixerStep.token`."""
        q, k, v, gate, inner, beta, a = self.project(hidden, norm)
        kernels = narrow_linear(inner, self.w2.weight, self.w2.bias, silu_input=True)
        return self.update(hidden, q, k, v, gate, beta, a, kernels.unflatten(-1, (self.block.value_dim, -1)))


class GatedDeltaNetStep(DeltaStep):
    """A Gated DeltaNet's step: a JetBlock's whose convolution is the same for every token, and two more before it."""

    def __init__(self, block: GatedDeltaNet, cache: StateLayer) -> None:
        linears = [block.q_proj, block.k_proj, block.v_proj, block.g_proj, block.b_proj, block.a_proj]
        super().__init__(block, linears, cache, "conv_v")
        self.convolutions = (block.q_conv1d, block.k_conv1d, block.v_conv1d)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: Rotation) -> torch.Tensor:
        """See `MixerStep.token`."""
        q, k, v, gate, beta, a = self.project(hidden, norm)
        of_q, of_k, of_v = self.convolutions
        q, k = self._convolve(of_q, "conv_q", q), self._convolve(of_k, "conv_k", k)
        return self.update(hidden, q, k, v, gate, beta, a, of_v.weight[:, 0].expand(len(hidden), -1, -1))

    def _convolve(self, convolution: ShortConvolution, name: str, x: torch.Tensor) -> torch.Tensor:
        """Puts x [B, D] at the end of a convolution's state and returns its result, before the activation."""
        state = self.cache.states[name]
        state.copy_(torch.cat((state[..., 1:], x[..., None]), -1))
        return (state * convolution.weight[:, 0]).sum(-1)
