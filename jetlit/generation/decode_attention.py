"""Attention as generation needs it: a chunk after its past, or one token over a preallocated cache.

Query heads that share a key/value head are never served by copies of it where the cache is long: the chunk's attention
takes grouped heads as they are, and in a decode step the group becomes the query length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right


def chunk_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of a chunk whose past comes first among the keys.

    Args:
        query: [B, heads, T, D].
        key: [B, KV heads, past + T, D].
        value: like the key.
        scaling: of the scores.

    Returns:
        [B, heads, T, D].
    """
    bias = causal_lower_right(query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling, enable_gqa=True)


def masked_chunk_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attention under a boolean mask [T, S] (True = visible), for keys so few that repeating heads is cheap."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling)


def token_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor, scaling: float
) -> torch.Tensor:
    """One token's attention over a cache, part of which is not written yet.

    Args:
        query: [B, heads, 1, D].
        key: [B, KV heads, S, D].
        value: like the key.
        visible: [S] bool.
        scaling: of the scores.

    Returns:
        [B, heads, 1, D].
    """
    batch, heads, _, size = query.shape
    grouped = query.view(batch, key.shape[1], -1, size)
    output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=visible[None, None, None], scale=scaling)
    return output.reshape(batch, heads, 1, size)
