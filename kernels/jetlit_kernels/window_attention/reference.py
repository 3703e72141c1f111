"""Plain-PyTorch attention over a sliding window."""

import torch
import torch.nn.functional as F


def window_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    """Compute `jetlit_kernels.window_attention`."""
    length, slots = query.shape[2], key.shape[2]
    position = torch.arange(slots - length, slots, device=key.device)[:, None]
    slot = torch.arange(slots, device=key.device)[None]
    visible = (slot <= position) & (slot > position - window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale, enable_gqa=True)
