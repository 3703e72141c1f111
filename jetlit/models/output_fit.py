"""Calibrated start of a hybrid: least squares for the output projections of new linear blocks.

An inherited output projection expects attention's heads. A linear block's heads are normalized and multiplied by a gate
that is random at first, so that the block's output is noise: on SmolLM2 its squared error is that of no mixer at all.
But the heads are a random feature map of attention's input, and the best linear read-out of given features has a closed
form. Each layer is fitted alone, on the teacher's hidden states: the attention transfer of LoLCATs (arXiv:2410.10254)
and MOHAWK (arXiv:2408.10189), without gradient descent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jetlit.blocks.base import LinearMixer
from jetlit.models.decoder_layer import DecoderLayer
from jetlit.models.modeling import JetNemotronForCausalLM, JetNemotronModel
from jetlit.models.supernet import SuperNetwork

RIDGE = 1e-3
"""The penalty on the weights, relative to the features' mean square."""


@torch.no_grad()
def fit_outputs(
    student: JetNemotronForCausalLM | SuperNetwork, teacher: JetNemotronModel, batches: Sequence[Tensor]
) -> None:
    """Fit the output projection of every linear block to the attention that it replaces.

    With F the features of a token (the block's concatenated heads), a the attention's output and t the teacher's
    hidden state after it: W = argmin Σ_tokens |W F - a|² / |t|² + ridge penalty. Each token counts relative to its
    norm, as in `jetlit.objectives.relative_error`. The processes of a distributed run sum their statistics.

    Args:
        student: only the `o_proj.weight` of its linear blocks change, on all paths of a super network.
        teacher: a decoder of as many layers on the same device, with attention where the student has linear blocks.
        batches: token ids, each [B, T], together several times as many tokens as a block has features.
    """
    hidden = [teacher.embed(ids) for ids in batches]
    inputs = [teacher.layer_inputs(states) for states in hidden]
    for layer, original in zip(student.model.layers, cast(Iterable[DecoderLayer], teacher.layers), strict=True):
        attended = [original.mix(*pair) for pair in zip(hidden, inputs)]
        for block in layer.self_attn.modules():
            if isinstance(block, LinearMixer):
                normed = (original.input_layernorm(states) for states in hidden)
                features = (_features(block, x.to(block.o_proj.weight.dtype)) for x in normed)
                norms = ((x.double() + y.double()).square().sum(-1) for x, y in zip(hidden, attended))
                _fit(block.o_proj, features, attended, [1 / norm.clamp_min(1e-12) for norm in norms])
        hidden = [original.feed_forward(*pair) for pair in zip(hidden, attended)]


def _fit(projection: nn.Linear, features: Iterable[Tensor], outputs: list[Tensor], weights: list[Tensor]) -> None:
    """Solve for a projection from features [B, T, F] to outputs [B, T, H], with weights [B, T] of the tokens."""
    size = projection.in_features
    gram = torch.zeros(size, size, dtype=torch.float64, device=projection.weight.device)
    moments = gram.new_zeros(size, projection.out_features)
    for x, y, weight in zip(features, outputs, weights):
        x, y = x.flatten(0, 1).double(), y.flatten(0, 1).double()
        weighed = (x * weight.flatten()[:, None]).T
        gram += weighed @ x
        moments += weighed @ y
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(gram)
        dist.all_reduce(moments)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    projection.weight.copy_(torch.linalg.solve(gram, moments).T)


def _features(block: LinearMixer, x: Tensor) -> Tensor:
    """Return the input of the block's output projection, [B, T, heads · value size], for x [B, T, H]."""
    seen: list[Tensor] = []
    handle = block.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        block(x)
    finally:
        handle.remove()
    return seen[0]
