"""The arithmetic of epochs: which block is seen when, and by which process."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.datamodules.loaders import HeldOutBatches, TrainingBlocks, TrainingLoader
from jetlit.datamodules.order import BlockOrder

chunks = st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any)
corpora = st.lists(st.tuples(chunks, st.floats(0.1, 10)), min_size=1, max_size=3)


class Numbered:
    """A corpus whose blocks are their own numbers."""

    def __init__(self, corpus: int) -> None:
        self.corpus = corpus

    def __getitem__(self, number: int) -> dict[str, tuple[int, int]]:
        return {"input_ids": (self.corpus, number)}


def order_of(found, seed: int) -> BlockOrder:
    return BlockOrder([each for each, _ in found], [weight for _, weight in found], seed)


def shown(order: BlockOrder, epoch: int, batch_size: int, processes: int, first: int = 0, count: int = 3) -> list:
    """Return what all processes see of an epoch from a batch on, in the order of one process."""
    streams = []
    for rank in range(processes):
        blocks = TrainingBlocks([Numbered(i) for i in range(count)], order, batch_size, (rank, processes))
        blocks.epoch, blocks.first_batch = epoch, first
        streams.append([block["input_ids"] for block in blocks])
    assert len({len(stream) for stream in streams}) == 1  # no process waits for another
    return [block for together in zip(*streams, strict=True) for block in together]


@given(corpora, st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_an_epoch_shows_no_block_twice_and_every_block_of_a_single_corpus(found, seed: int, number: int) -> None:
    order = order_of(found, seed)
    epoch = [tuple(block) for block in order.epoch(number).tolist()]
    assert len(set(epoch)) == len(epoch) == len(order)
    sizes = [sum(each) for each, _ in found]
    assert all(0 <= block < sizes[corpus] for corpus, block in epoch)
    if len(found) == 1:
        assert len(order) == sizes[0]
    else:  # nothing is left to draw of some corpus, or all has been drawn
        used = np.bincount([corpus for corpus, _ in epoch], minlength=len(sizes))
        assert any(used == sizes)


@given(corpora, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_processes_take_the_blocks_of_one(found, epoch: int, batch_size: int, processes: int, first: int) -> None:
    order, together = order_of(found, 0), batch_size * processes
    whole = [tuple(block) for block in order.epoch(epoch).tolist()][: len(order) // together * together]
    assert shown(order, epoch, batch_size, processes, first) == whole[first * together :]


@given(corpora, st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.data())
@settings(max_examples=30, deadline=None)
def test_a_position_changes_hands(found, before: int, ranks: int, after: int, others: int, data: st.DataObject) -> None:
    order = order_of(found, 0)
    first = TrainingLoader(TrainingBlocks([], order, before, (0, ranks)), 0, "data")
    second = TrainingLoader(TrainingBlocks([], order, after, (0, others)), 0, "data")
    steps = data.draw(st.integers(0, len(first)))
    position = first.state_dict() | {"epoch": 1, "blocks": steps * before * ranks}
    try:
        second.load_state_dict(position)
    except Exception as error:
        assert "where no step" in str(error)
        assert steps < len(first) and position["blocks"] % (after * others)
        return
    done = second.state_dict()["blocks"]
    assert done == (position["blocks"] if steps < len(first) else len(second) * after * others)


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_every_held_out_block_counts_once(blocks: int, batch_size: int, processes: int) -> None:
    chosen = np.stack([np.zeros(blocks, dtype=np.int64), np.arange(blocks)], axis=1)
    counted, numbers, batches = [], [], set()
    for rank in range(processes):
        part = HeldOutBatches([Numbered(0)], chosen, batch_size, (rank, processes))
        found = list(part)
        assert len(found) == len(part)
        batches.add(len(part))
        for batch in found:
            if batch["weight"]:
                assert batch["weight"] == len(batch["input_ids"][1])
                counted += batch["input_ids"][1].tolist()
                numbers.append(batch["number"])
    assert sorted(counted) == list(range(blocks)) and len(set(numbers)) == len(numbers) == -(-blocks // batch_size)
    assert len(batches) == 1
