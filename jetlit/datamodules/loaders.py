"""Loaders whose batches do not depend on the number of processes, and that Lightning can stop and resume."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from litdata import StreamingDataset
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from jetlit.datamodules.order import BlockOrder
from jetlit.errors import UserError


def process_of(trainer: Trainer | None) -> tuple[int, int]:
    """Return the number of this process among those that read different data, and their number."""
    sampler = None if trainer is None else trainer.distributed_sampler_kwargs  # type: ignore[attr-defined]
    if sampler is not None:
        return sampler["rank"], sampler["num_replicas"]
    if trainer is None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def read_blocks(corpora: Sequence[StreamingDataset], blocks: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Read blocks int64 [N, 2] of (corpus, number) in the order given, those of one chunk one after another."""
    found: list[Any] = [None] * len(blocks)
    for place in np.lexsort((blocks[:, 1], blocks[:, 0])):
        corpus, number = blocks[place].tolist()
        found[place] = corpora[corpus][number]
    return found


class TrainingBlocks(IterableDataset):
    """The blocks of one process, from a batch of an epoch on: of N processes, each takes every Nth block.

    All processes together take the blocks of a `BlockOrder` one after another. The loading processes take the batches
    in turn. Blocks that do not fill a batch of every process are left out.
    """

    def __init__(
        self, corpora: Sequence[StreamingDataset], order: BlockOrder, batch_size: int, process: tuple[int, int]
    ) -> None:
        self.corpora = list(corpora)
        self.order = order
        self.batch_size = batch_size
        self.rank, self.processes = process
        self.epoch = 1
        self.first_batch = 0

    @property
    def global_batch(self) -> int:
        """Blocks of a batch of all processes."""
        return self.batch_size * self.processes

    def __len__(self) -> int:
        """Return the blocks of an epoch that this process gets."""
        return len(self.order) // self.global_batch * self.batch_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = self.order.epoch(self.epoch)[self.rank :: self.processes]
        batches = range(self.first_batch, len(self) // self.batch_size)
        for batch in batches[number::workers]:
            yield from read_blocks(self.corpora, mine[batch * self.batch_size : (batch + 1) * self.batch_size])


class TrainingLoader(DataLoader):
    """Loads `TrainingBlocks`, and resumes at any block that ends a step.

    The saved position is the number of blocks that all processes have taken of an epoch. It may be resumed with any
    number of processes, of loading processes and any batch size, as long as a step ends there. `trainer` is told how
    many batches of the new size that is.
    """

    dataset: TrainingBlocks

    def __init__(
        self, dataset: TrainingBlocks, num_workers: int, fingerprint: str, trainer: Trainer | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_size=dataset.batch_size,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        self._fingerprint = fingerprint
        self._fit = trainer
        self._epoch = 0
        self._batches_done = 0
        self._resume = False

    def __len__(self) -> int:
        """Return the batches of an epoch. Lightning would fetch one ahead of a loader that has no length."""
        return len(self.dataset) // self.dataset.batch_size

    def __iter__(self) -> Any:
        if not self._resume or self._batches_done >= len(self):
            self._epoch += 1
            self._batches_done = 0
        self._resume = False
        self.dataset.epoch, self.dataset.first_batch = self._epoch, self._batches_done
        try:
            for batch in super().__iter__():
                self._batches_done += 1
                yield batch
        except UserError as error:
            # An error of a worker process arrives as the text of its traceback: raise its sentence alone.
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None

    @property
    def _step(self) -> int:
        """Blocks of an optimizer step."""
        accumulated: Any = 1 if self._fit is None else self._fit.accumulate_grad_batches
        return self.dataset.global_batch * int(accumulated)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next block, the same in every process, for Lightning's checkpoints."""
        return {
            "epoch": self._epoch,
            "blocks": self._batches_done * self.dataset.global_batch,
            "global_batch": self.dataset.global_batch,
            "step": self._step,
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved position.

        Raises:
            UserError: It is of other data or of an earlier version, or no step ends there.
        """
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "The checkpoint's position belongs to other training data: resume with the same corpora and weights, "
                "prepared as they were, or start a new run from the exported model."
            )
        if "blocks" not in state:
            raise UserError(
                "The checkpoint's position was saved by an earlier version of jetlit, which showed the blocks in "
                "another order: finish the fit with that version, or start it over."
            )
        blocks, earlier = state["blocks"], state["blocks"] // state["global_batch"]
        if blocks + state["global_batch"] > len(self.dataset.order):  # the end of an epoch
            done = len(self)
        elif state["step"] != self._step and blocks % self._step:
            raise UserError(
                f"The checkpoint stands after {blocks} blocks of an epoch, where no step of {self._step} blocks ends "
                f"({state['step']} were one before): choose processes, batch_size and accumulate_grad_batches whose "
                f"product divides {blocks}."
            )
        else:
            done = blocks // self.dataset.global_batch
        self._epoch, self._batches_done, self._resume = state["epoch"], done, True
        if self._fit is not None:
            progress = self._fit.fit_loop.epoch_loop.batch_progress.current
            for name in ("ready", "started", "processed", "completed"):
                setattr(progress, name, getattr(progress, name) + done - earlier)


class HeldOutBatches(IterableDataset):
    """The batches of one process, {"input_ids": int64 [B, T], "number", "weight"}: of N processes, every Nth batch.

    "number" is that of the batch among those of all processes, and "weight" what it counts, its blocks. A process that
    would have a batch less repeats one of weight 0, since sharded models need all processes in every forward pass.
    """

    def __init__(
        self, corpora: Sequence[StreamingDataset], blocks: np.ndarray, batch_size: int, process: tuple[int, int]
    ) -> None:
        self.corpora = list(corpora)
        self.blocks = blocks
        self.batch_size = batch_size
        self.rank, self.processes = process

    def __len__(self) -> int:
        """Return the batches of this process, as many as of any other."""
        return -(-len(self.blocks) // (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        whole = -(-len(self.blocks) // self.batch_size)
        for number in range(self.rank, len(self) * self.processes, self.processes):
            first = min(number, whole - 1) * self.batch_size
            blocks = read_blocks(self.corpora, self.blocks[first : first + self.batch_size])
            yield default_collate(blocks) | {"number": number, "weight": len(blocks) if number < whole else 0}


def held_out_loader(batches: HeldOutBatches) -> DataLoader:
    """Return a loader of a process's held-out batches. It has no workers: validation starts often and reads little."""
    return DataLoader(batches, batch_size=None, pin_memory=torch.cuda.is_available())
