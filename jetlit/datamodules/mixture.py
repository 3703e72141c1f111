"""A weighted mixture of corpora whose workers each resume where they were."""

from collections.abc import Iterator
from typing import Any

from litdata import CombinedStreamingDataset, StreamingDataset
from litdata.utilities.env import _WorkerEnv


class Mixture(CombinedStreamingDataset):
    """Blocks drawn at random from several corpora by weight.

    litdata saves how many blocks each worker took of each corpus, but sets a corpus' position from their sum, as if
    its blocks had been dealt out to the workers in whole batches. In a mixture they are not, so that with two workers
    or more a resume would repeat some blocks and skip others. Here each worker sets its own count before it starts.

    Args:
        datasets: the corpora, made with drop_last.
        weights: shares of the blocks; they need not add up to 1.
        seed: of the draws.
    """

    def __init__(self, datasets: list[StreamingDataset], weights: list[float], seed: int) -> None:
        super().__init__(datasets, seed=seed, weights=weights, iterate_over_all=False)

    def expected_batches(self, batch_size: int, num_workers: int) -> int:
        """Batches until the corpus that runs out first is expected to, less a margin of one in twenty.

        The margin keeps the random draws from exhausting that corpus earlier, which would end the epoch anyway.
        """
        assert self._weights is not None
        blocks = min(
            dataset.get_len(num_workers, batch_size) / weight for dataset, weight in zip(self._datasets, self._weights)
        )
        return max(int(0.95 * blocks) // batch_size, 1)

    def __iter__(self) -> Iterator[Any]:
        if self._num_samples_yielded is not None:
            worker = _WorkerEnv.detect()
            counts = self._num_samples_yielded.get(worker.rank, [0] * len(self._datasets))
            for dataset, count in zip(self._datasets, counts):
                assert dataset._state_dict is not None
                total = _total_that_gives(count, worker.rank, worker.world_size, dataset.batch_size)
                dataset._state_dict = {**dataset._state_dict, "num_samples_yielded": total}
        return super().__iter__()


def _total_that_gives(count: int, worker: int, workers: int, batch_size: int) -> int:
    """The total from which litdata, dealing whole batches to the workers in turn, gives this worker `count` blocks."""
    batches, rest = divmod(count, batch_size)
    return (batches * workers + worker) * batch_size + rest
