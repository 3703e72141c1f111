"""Padded batches to packed sequences and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pack(hidden: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop padding: return the real tokens of all rows, one sequence after the other.

    Args:
        hidden: [B, T, D].
        real: [B, T] bool, True at real tokens (padding may be on either side).

    Returns:
        [1, total, D] and cu_seqlens [B + 1] (a row without real tokens becomes an empty sequence).
    """
    lengths = real.sum(1, dtype=torch.int32)
    return hidden[real][None], F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def unpack(packed: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Put packed tokens [1, total, D] back into their places [B, T, D], with zeros at padding."""
    padded = packed.new_zeros(*real.shape, packed.shape[-1])
    return padded.masked_scatter(real[..., None], packed)
