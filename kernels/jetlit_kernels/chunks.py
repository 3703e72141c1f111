"""Cut sequences into chunks, on the host and inside a kernel.

A *row* is an element of the batch, or the single row that holds all packed sequences. Chunks are numbered within a
row; packed sequences start at a chunk of their own, and each knows its first chunk (`base`). Scratch memory covers a
*group* of chunks of every row: chunk `first + i` of a row has the slot `row · group + i`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv

MOST = 65_535  # programs of a launch along the second axis of its grid, where a scan has its sequences and heads


@dataclass(frozen=True)
class Chunking:
    """The chunks of a batch [B, T] or of N sequences packed into one row.

    Attributes:
        size: tokens of a chunk.
        rows: B.
        length: T.
        bounds: [N + 1] int32, the packed sequences' bounds, or None.
    """

    size: int
    rows: int
    length: int
    bounds: torch.Tensor | None

    @property
    def sequences(self) -> int:
        """The number of sequences."""
        return self.rows if self.bounds is None else self.bounds.shape[0] - 1

    def check_heads(self, heads: int) -> None:
        """Raise an error if one launch cannot take all sequences and heads.

        Raises:
            ValueError: there are more than 65,535 of both, multiplied.
        """
        if self.sequences * heads > MOST:
            raise ValueError(
                f"A call takes at most {MOST:,} sequences times heads, not {self.sequences:,} x {heads}: split it."
            )

    @cached_property
    def per_row(self) -> int:
        """Chunks of a row; for packed sequences an upper bound that does not read the bounds from the device."""
        if self.bounds is None:
            return cdiv(self.length, self.size)
        return (self.length + (self.size - 1) * self.sequences) // self.size

    @property
    def ragged(self) -> bool:
        """Whether a chunk may reach past the end of its sequence."""
        return self.bounds is not None or self.length % self.size > 0

    @cached_property
    def base(self) -> torch.Tensor | None:
        """[N] int32: each packed sequence's first chunk."""
        return None if self.bounds is None else (self._ends - self._counts).int()

    def owners(self, group: int) -> torch.Tensor | None:
        """[chunks, filled up to whole groups] int32: the packed sequence of every chunk, N where there is none."""
        if self.bounds is None:
            return None
        chunks = torch.arange(cdiv(self.per_row, group) * group, device=self.bounds.device)
        return torch.searchsorted(self._ends, chunks, right=True, out_int32=True)

    @cached_property
    def _counts(self) -> torch.Tensor:
        assert self.bounds is not None
        return (self.bounds.diff() + self.size - 1) // self.size

    @cached_property
    def _ends(self) -> torch.Tensor:
        return self._counts.cumsum(0)


@triton.jit
def chunk_of_slot(
    slot, first, group, length, chunks, sequences, bounds, base, owners, SIZE: tl.constexpr, PACKED: tl.constexpr
):
    """Find the chunk behind a scratch slot.

    Return whether there is one, its first token, and the token past the end of its sequence.
    """
    if PACKED:
        owner = tl.load(owners + first + slot)
        real = owner < sequences
        n = tl.where(real, owner, 0)
        start = tl.load(bounds + n).to(tl.int64)
        end = tl.load(bounds + n + 1).to(tl.int64)
        chunk = first + slot - tl.load(base + n)
    else:
        chunk = first + slot % group
        real = chunk < chunks
        start = (slot // group).to(tl.int64) * length
        end = start + length
    return real, start + chunk * SIZE, end


@triton.jit
def span_of_sequence(n, first, last, length, chunks, bounds, base, SIZE: tl.constexpr, PACKED: tl.constexpr):
    """Find the chunks of sequence n that lie in the chunks [first, last) of its row.

    Return (start, end) in tokens, the sequence's number of chunks, its first chunk's number in the row, its row, and
    the range [low, high) of its own chunks.
    """
    if PACKED:
        start = tl.load(bounds + n).to(tl.int64)
        end = tl.load(bounds + n + 1).to(tl.int64)
        count = ((end - start + SIZE - 1) // SIZE).to(tl.int32)
        shift = tl.load(base + n)
        row = 0
    else:
        start = n.to(tl.int64) * length
        end = start + length
        count = chunks
        shift = 0
        row = n
    low = tl.maximum(first - shift, 0)
    high = tl.minimum(last - shift, count)
    return start, end, count, shift, row, low, high
