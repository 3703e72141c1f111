"""How a decoder layer is run in training: what of it is compiled, what is computed twice to save memory."""

import functools

import torch
from torch.utils.checkpoint import checkpoint

from jetlit.blocks.attention import Attention
from jetlit.models.decoder_layer import DecoderLayer


def compile_layer(layer: DecoderLayer) -> None:
    """Compile what surrounds the token mixer, and attention's projections with their rotation.

    Not the linear mixers: their kernels are compiled already, and a loop over chunks would be unrolled.
    """
    layer.input_layernorm.compile()
    layer.feed_forward = torch.compile(layer.feed_forward)  # type: ignore[method-assign]
    for module in layer.self_attn.modules():
        if isinstance(module, Attention):
            module.project = torch.compile(module.project)  # type: ignore[method-assign]


def recompute_feed_forward(layer: DecoderLayer) -> None:
    """Keep only the inputs of a layer's MLP for the backward pass, and make its gate and up products again.

    Those two are the largest activations of a layer and among the cheapest to make: products and nothing else.
    """
    layer.feed_forward = functools.partial(  # type: ignore[method-assign]
        checkpoint, layer.feed_forward, use_reentrant=False, preserve_rng_state=False
    )
