"""What a linear block inherits from a pre-trained attention layer (docs/blocks.md, "Starting from attention")."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from jetlit.blocks.projections import check_projections

logger = logging.getLogger(__name__)


def inherit_projections(block: Any, attention: Any) -> None:
    """Write the attention's projections into the block's q, k, v and o.

    With equal numbers of heads, head i starts from query head i. Fewer heads take an even selection, more heads repeat
    neighbors. With grouped-query attention, query head j reads key/value head j // (H / Hkv); whole heads are repeated
    in that order. Of each head the leading channels are inherited. In a wider head the additional query rows are zero,
    so that the inner product with the keys is unchanged, and so are the additional columns of the output projection.

    Args:
        block: a freshly initialized `LinearMixer`; its other parameters stay.
        attention: the teacher's `Attention`.

    Raises:
        UserError: a projection of the attention is more than its weights (an adapter, quantized, offloaded).
        ValueError: the two belong to models of different hidden size.
    """
    check_projections(attention)
    if block.hidden_size != attention.hidden_size:
        raise ValueError(
            f"A block of hidden size {block.hidden_size} cannot inherit from attention of {attention.hidden_size}."
        )
    query_heads = torch.arange(block.num_heads) * attention.num_heads // block.num_heads
    kv_heads = query_heads // (attention.num_heads // attention.num_kv_heads)
    _copy_heads(block.q_proj, attention.q_proj, query_heads, attention.head_dim)
    _copy_heads(block.k_proj, attention.k_proj, kv_heads, attention.head_dim)
    _copy_heads(block.v_proj, attention.v_proj, kv_heads, attention.head_dim)
    for tensor in block.q_proj.parameters():
        tensor.unflatten(0, (block.num_heads, -1))[:, attention.head_dim :] = 0
    _share_output(block, attention, query_heads)
    _log_what_is_dropped(block, attention)


def _copy_heads(new: nn.Linear, old: nn.Linear, heads: torch.Tensor, old_dim: int) -> None:
    """Copy the leading rows (and biases) of the selected old heads to the leading rows of each new head."""
    width = min(new.out_features // len(heads), old_dim)
    pairs = [(new.weight, old.weight)]
    if new.bias is not None:
        new.bias.zero_()
        if old.bias is not None:
            pairs.append((new.bias, old.bias))
    for target, source in pairs:
        target.unflatten(0, (len(heads), -1))[:, :width] = source.unflatten(0, (-1, old_dim))[heads, :width]


def _share_output(block: Any, attention: Any, heads: torch.Tensor) -> None:
    """Copy the output projection's columns of each inherited head, divided among the heads that repeat it."""
    new = block.o_proj.weight.unflatten(1, (block.num_heads, -1))
    width = min(new.shape[2], attention.head_dim)
    repeats = torch.bincount(heads)[heads]
    old = attention.o_proj.weight.unflatten(1, (attention.num_heads, -1))[:, heads, :width]
    new.zero_()
    new[..., :width] = old / repeats[:, None].to(old)


def _log_what_is_dropped(block: Any, attention: Any) -> None:
    dropped = []
    if attention.q_proj.bias is not None and block.q_proj.bias is None:
        dropped.append("the biases of q, k and v (keep them with qkv_bias=True)")
    if attention.o_proj.bias is not None:
        dropped.append("the bias of o")
    if not isinstance(attention.q_norm, nn.Identity):
        dropped.append("the norms of queries and keys")
    if dropped:
        logger.info("%s inherits from attention without %s.", type(block).__name__, " and ".join(dropped))
