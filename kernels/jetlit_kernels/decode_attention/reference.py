"""Plain-PyTorch attention of one token over a cache."""

import torch
import torch.nn.functional as F


def decode_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """Compute `jetlit_kernels.decode_attention`.

    A group of query heads becomes the query length, so that no key or value is copied.
    """
    batch, heads, size = query.shape
    grouped = query.view(batch, key.shape[1], -1, size)
    visible = torch.arange(key.shape[2], device=key.device) < seen
    output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=visible[None, None, None], scale=scale)
    return output.reshape(batch, heads, size)
