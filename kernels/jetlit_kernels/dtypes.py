"""The dtypes that operators compute in."""

from __future__ import annotations

import torch


def compute_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def in_one_dtype(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return q, k and v in the one dtype that the recurrences' kernels take: bfloat16 or float32.

    float16 lacks the range of a state, so it is computed in float32.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return q.to(dtype), k.to(dtype), v.to(dtype)
