"""The order of an epoch's blocks: one for all processes, whatever their number."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

CHUNKS_AT_A_TIME = 16
"""Blocks of so many chunks are mixed with each other. Reading stays within these files."""


class BlockOrder:
    """Which blocks an epoch shows, and in which order. Nothing here depends on processes or batches.

    A single corpus shows each of its blocks once. A mixture draws the corpus of each block by weight, and its epoch
    ends where the next draw would be a block of a corpus that is used up. Each epoch shuffles the corpora anew; the
    draws are those of every epoch, so that all epochs have the same length.

    Args:
        chunks: For each corpus, the blocks of each of its chunks.
        weights: Weight of each corpus. They need not add up to 1.
        seed: Seed of shuffling and drawing, from 0 to 2³² - 1.
    """

    def __init__(self, chunks: Sequence[Sequence[int]], weights: Sequence[float], seed: int) -> None:
        self._chunks = [np.asarray(each, dtype=np.int64) for each in chunks]
        self._weights = np.asarray(weights, dtype=np.float64)
        self._seed = seed

    def __len__(self) -> int:
        """Return the blocks of an epoch."""
        return len(self._draws)

    @cached_property
    def _draws(self) -> np.ndarray:
        """The corpus of each block of an epoch."""
        sizes = [int(each.sum()) for each in self._chunks]
        bounds = np.cumsum(self._weights / self._weights.sum())[:-1]
        # The stream of RandomState is the same in every version of NumPy.
        numbers = np.random.RandomState([self._seed]).random_sample(sum(sizes))
        draws = np.searchsorted(bounds, numbers, side="right").astype(np.min_scalar_type(len(sizes)))
        ends = [np.flatnonzero(draws == corpus)[size:][:1] for corpus, size in enumerate(sizes)]
        return draws[: min((int(end[0]) for end in ends if len(end)), default=len(draws))]

    def epoch(self, number: int) -> np.ndarray:
        """Return the blocks of an epoch in order: int64 [len, 2], the corpus and the number of a block in it."""
        blocks = np.empty((len(self), 2), dtype=np.int64)
        blocks[:, 0] = self._draws
        for corpus, chunks in enumerate(self._chunks):
            drawn = self._draws == corpus
            blocks[drawn, 1] = _shuffled(chunks, [self._seed, number, corpus])[: int(drawn.sum())]
        return blocks


def _shuffled(chunks: np.ndarray, seed: list[int]) -> np.ndarray:
    """Return the blocks of a corpus: its chunks in random order, and the blocks of some chunks at a time mixed."""
    generator = np.random.RandomState(seed)
    starts = np.cumsum(chunks) - chunks
    order = generator.permutation(len(chunks))
    groups = [order[first : first + CHUNKS_AT_A_TIME] for first in range(0, len(order), CHUNKS_AT_A_TIME)]
    return np.concatenate(
        [
            generator.permutation(np.concatenate([np.arange(starts[i], starts[i] + chunks[i]) for i in group]))
            for group in groups
        ]
    )
