"""Attention of a chunk of the prompt after its past.

Query heads that share a key/value head are never served by copies of it. Attention over a window is
`jetlit_kernels.window_attention`, that of decode steps `jetlit_kernels.decode_attention`.
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
