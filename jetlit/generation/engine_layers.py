"""Decoder layers as the engine runs them: the model's weights in fewer, larger operations.

A decode step of a few sequences is bound by reading weights, and each launch costs as much as reading some megabytes.
So projections of one input are merged, and norms, activations and residuals are fused into the products
(`jetlit_kernels.narrow_linear`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import decode_attention, jet_decode_step, narrow_linear, rotate_and_store, silu_mul
from torch import nn

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import TokenMixer
from jetlit.blocks.gated_delta_net import GatedDeltaNet
from jetlit.blocks.jet import JetBlock
from jetlit.blocks.projections import checked, is_plain
from jetlit.blocks.rms_norm import HeadRMSNorm, RMSNorm
from jetlit.blocks.short_convolution import ShortConvolution
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
    if isinstance(mixer, JetBlock) and is_plain(mixer, JetBlock) and mixer.q_proj.bias is None:
        return _Jet(mixer)
    if isinstance(mixer, GatedDeltaNet) and is_plain(mixer, GatedDeltaNet) and mixer.q_proj.bias is None:
        return _GatedDeltaNet(mixer)
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


class _Delta(_Mixer):
    """A gated delta rule, of whose decode step the projections are one product and the update of the state another.

    Args:
        block: the block.
        linears: its projections of the input, without biases.
        conv_state: name of the state of the values' convolution.
    """

    def __init__(self, block: JetBlock | GatedDeltaNet, linears: list[nn.Linear], conv_state: str) -> None:
        super().__init__(block)
        self.weight, _ = merge_linears(linears)
        self.sizes = [linear.out_features for linear in linears]
        self.block, self.out, self.conv_state = block, checked(block.o_proj), conv_state
        checked(block.o_norm, HeadRMSNorm)

    def project(self, hidden: torch.Tensor, norm: RMSNorm) -> tuple[torch.Tensor, ...]:
        """Return every projection [B, outputs] of the normed input."""
        return narrow_linear(hidden, self.weight, norm_weight=norm.weight, norm_eps=norm.eps).split(self.sizes, 1)

    def update(
        self, hidden: torch.Tensor, cache: Any, heads: Sequence[torch.Tensor], kernels: torch.Tensor
    ) -> torch.Tensor:
        """Update the states and add the output to `hidden`.

        Args:
            hidden: [B, H].
            cache: cache of the layer.
            heads: q, k [B, h·K], v, gate [B, h·V], and the logits [B, h] of beta and of the decay.
            kernels: [B, h·V, W], kernels of the values' convolution.
        """
        block = self.block
        q, k, v, gate = (block.split_heads(x) for x in heads[:4])
        o = jet_decode_step(
            q,
            k,
            v,
            gate,
            heads[4],
            heads[5],
            kernels,
            block.A_log,
            block.dt_bias,
            block.o_norm.weight,
            cache.states[self.conv_state],
            cache.states["recurrent"],
            norm_eps=block.norm_eps,
        )
        return narrow_linear(o.flatten(1), self.out.weight, add_to=hidden)


class _Jet(_Delta):
    """A JetBlock whose seven projections of its input are one product."""

    def __init__(self, block: JetBlock) -> None:
        generator = block.dynamic_conv1d.kernel_generator
        linears = [block.q_proj, block.k_proj, block.v_proj, block.g_proj, block.b_proj, block.a_proj, generator.w1]
        super().__init__(block, linears, "conv")
        self.w2 = checked(generator.w2)

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        *heads, inner = self.project(hidden, norm)
        kernels = narrow_linear(inner, self.w2.weight, self.w2.bias, silu_input=True)
        return self.update(hidden, cache, heads, kernels.unflatten(-1, (self.block.value_dim, -1)))


class _GatedDeltaNet(_Delta):
    """A Gated DeltaNet: as a JetBlock with one kernel for all tokens, and convolutions of queries and keys."""

    def __init__(self, block: GatedDeltaNet) -> None:
        linears = [block.q_proj, block.k_proj, block.v_proj, block.g_proj, block.b_proj, block.a_proj]
        super().__init__(block, linears, "conv_v")
        convolutions = (block.q_conv1d, block.k_conv1d, block.v_conv1d)
        self.convolutions = [checked(convolution, ShortConvolution) for convolution in convolutions]

    def token(self, hidden: torch.Tensor, norm: RMSNorm, rotation: _Rotation, cache: Any) -> torch.Tensor:
        q, k, *others = self.project(hidden, norm)
        of_q, of_k, of_v = self.convolutions
        q = self._convolve(of_q, cache.states["conv_q"], q)
        k = self._convolve(of_k, cache.states["conv_k"], k)
        return self.update(hidden, cache, (q, k, *others), of_v.weight[:, 0].expand(len(hidden), -1, -1))

    @staticmethod
    def _convolve(convolution: ShortConvolution, state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Append x [B, D] to a convolution's state and return its result before the activation."""
        state.copy_(torch.cat((state[..., 1:], x[..., None]), -1))
        return (state * convolution.weight[:, 0]).sum(-1)
