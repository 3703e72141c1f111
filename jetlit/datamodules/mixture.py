"""A weighted mixture of corpora that resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from litdata import CombinedStreamingDataset, StreamingDataset
from litdata.streaming.combined import _CombinedDatasetIterator
from litdata.utilities.env import _WorkerEnv

from jetlit.errors import UserError


class Mixture(CombinedStreamingDataset):
    """Blocks drawn at random from several corpora by weight.

    It differs from litdata's mixtures in three ways:

    - Each loading process of each rank has its own draws. litdata seeds all alike, so that all ranks take their next
      block from the same corpus.
    - All draws are known beforehand, so that an epoch ends on all ranks with the same batch: the last whole one before
      any corpus of any process is used up.
    - A position is the number of blocks that a process has drawn, the same on every rank. litdata saves the counts of
      one rank's corpora, and reads them as if blocks had been dealt to the workers in whole batches.

    The corpora are opened with drop_last. Weights need not add up to 1.
    """

    def __init__(self, datasets: list[StreamingDataset], weights: list[float], seed: int) -> None:
        super().__init__(datasets, seed=seed, weights=weights, iterate_over_all=False)
        self._epochs: dict[tuple[int, int], int] = {}

    def epoch_batches(self, batch_size: int, num_workers: int) -> int:
        """Return the batches of an epoch on each rank. Raises UserError if a process has none."""
        workers = max(num_workers, 1)
        if (batch_size, workers) not in self._epochs:
            ranks = self._datasets[0].distributed_env.world_size
            # Worker b % workers makes batch b of a rank.
            self._epochs[batch_size, workers] = min(
                len(self._draws(rank, worker, workers, batch_size)) // batch_size * workers + worker
                for rank in range(ranks)
                for worker in range(workers)
            )
        batches = self._epochs[batch_size, workers]
        if batches == 0:
            raise UserError(
                "The smallest corpus of the mixture is used up before each loading process has made a batch: prepare "
                "more text, or lower batch_size, num_workers or block_size."
            )
        return batches

    def _draws(self, rank: int, worker: int, workers: int, batch_size: int) -> np.ndarray:
        """Return the corpus of each block of a process, until its share of one corpus is used up."""
        assert self._weights is not None
        shares = []  # litdata deals whole batches to the workers, as equally as possible
        for dataset in self._datasets:
            batches, rest = divmod(dataset.get_len(workers, batch_size) // batch_size, workers)
            shares.append((batches + (worker < rest)) * batch_size)
        bounds = np.cumsum(self._weights)[:-1]
        # The stream of RandomState is the same in every version of NumPy.
        generator = np.random.RandomState([self._seed, rank, worker])
        drawn = np.searchsorted(bounds, generator.random_sample(sum(shares)), side="right")
        ends = [np.flatnonzero(drawn == corpus)[share:][:1] for corpus, share in enumerate(shares)]
        return drawn[: min((int(end[0]) for end in ends if len(end)), default=len(drawn))]

    def __iter__(self) -> Iterator[Any]:
        worker = _WorkerEnv.detect()
        rank = self._datasets[0].distributed_env.global_rank
        draws = self._draws(rank, worker.rank, worker.world_size, self.batch_size)
        done = 0 if self._num_samples_yielded is None else sum(self._num_samples_yielded.get(worker.rank, ()))
        counts = np.bincount(draws[:done], minlength=len(self._datasets)).tolist()
        if self._num_samples_yielded is not None:
            for dataset, count in zip(self._datasets, counts):
                assert dataset._state_dict is not None
                # litdata deals whole batches to the workers in turn: of this total, this worker gets `count` blocks.
                batches, rest = divmod(count, dataset.batch_size)
                total = (batches * worker.world_size + worker.rank) * dataset.batch_size + rest
                dataset._state_dict = {**dataset._state_dict, "num_samples_yielded": total}
        self._iterator = _CombinedDatasetIterator(
            self._datasets,
            self._seed,
            self._weights or (),
            self._use_streaming_dataloader,
            None,
            self.batch_size,
            self._batching_method,
        )
        self._iterator._num_samples_yielded = counts
        self._iterator._get_dataset_index = iter(draws[done:].tolist()).__next__  # type: ignore[method-assign]
        return self._iterator
