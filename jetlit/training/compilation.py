"""Compilation and recomputation of decoder layers in training."""

import functools

import torch
from torch.utils.checkpoint import checkpoint

from jetlit.blocks.attention import Attention
from jetlit.models.decoder_layer import DecoderLayer


def compile_layer(layer: DecoderLayer) -> None:
    """Compile what surrounds the token mixer, and the projections and rotation of attention.

    Linear mixers are left out: their kernels are compiled already, and a loop over chunks would be unrolled.
    """
    layer.input_layernorm.compile()
    layer.feed_forward = torch.compile(layer.feed_forward)  # type: ignore[method-assign]
    for module in layer.self_attn.modules():
        if isinstance(module, Attention):
            module.project = torch.compile(module.project)  # type: ignore[method-assign]


def recompute_feed_forward(layer: DecoderLayer) -> None:
    """Keep only the input of a layer's MLP for the backward pass, and compute the gate and up products again.

    These are the largest activations of a layer and among the cheapest to compute.
    """
    layer.feed_forward = functools.partial(  # type: ignore[method-assign]
        checkpoint, layer.feed_forward, use_reentrant=False, preserve_rng_state=False
    )
