"""Turn packed sequences into a padded batch and back, for the plain-PyTorch recurrences."""

from __future__ import annotations

import torch


class PaddedBatch:
    """Index tables between a packed [1, T, ...] tensor and its padded form [N, longest, ...].

    Padding is written as zeros, which no recurrence here notices: a zero log decay keeps the state and zero keys add
    nothing to it, so the final state of a short sequence survives its padding.

    Args:
        cu_seqlens: [N + 1], integers; sequence n holds the positions cu_seqlens[n] to cu_seqlens[n + 1] - 1.
        total: T, the number of packed positions.
    """

    def __init__(self, cu_seqlens: torch.Tensor, total: int) -> None:
        starts = cu_seqlens.long()
        lengths = starts[1:] - starts[:-1]
        longest = max(int(lengths.max()), 1)
        positions = torch.arange(longest, device=cu_seqlens.device)
        self._inside = positions < lengths[:, None]
        self._index = torch.where(self._inside, starts[:-1, None] + positions, 0).clamp_(max=max(total - 1, 0))

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """Map [1, T, ...] to [N, longest, ...], zeros past each sequence's end."""
        padded = packed[0][self._index]
        inside = self._inside.reshape(*self._inside.shape, *(1,) * (padded.dim() - 2))
        return padded.masked_fill(~inside, 0)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """Map [N, longest, ...] back to [1, T, ...]."""
        return padded[self._inside][None]
