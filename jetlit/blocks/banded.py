"""Flash attention within a window, where this PyTorch has it.

`scaled_dot_product_attention` takes a window only as a mask, and with a mask it computes the whole square: at 4,096
tokens and a window of 1,152 about four times what the window holds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def _windowed_flash() -> Callable[..., Any] | None:
    """Return PyTorch's attention over packed sequences if it takes a window (from about 2.11 on)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "scale"} <= inspect.signature(varlen_attn).parameters.keys() else None


def runs_banded(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `banded_attention` runs on tensors of this device and dtype."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and _windowed_flash() is not None


def banded_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scaling: float
) -> torch.Tensor:
    """Compute causal softmax attention in which a token sees `window` tokens, itself included.

    Queries are [B, heads, T, D], keys and values [B, KV heads, T, D], the result [B, T, heads, D]. The scores are
    multiplied by `scaling`.
    """
    attend = _windowed_flash()
    assert attend is not None, "ask runs_banded first"
    batch, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    bounds = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)

    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(0, 1)

    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    packed = (rows(query), rows(key), rows(value), bounds, bounds, length, length)
    output = attend(*packed, scale=scaling, window_size=(window - 1, 0))
    return output.unflatten(0, (batch, length))
