"""The one data module: blocks of tokens from one prepared corpus or a weighted mixture."""

import json
from functools import cached_property
from pathlib import Path

import torch
from jetlit_data.corpus import CorpusInfo, read_corpus
from jetlit_data.reading import open_split
from jetlit_data.tokenizer import check_vocabulary
from lightning.pytorch import LightningDataModule
from litdata import StreamingDataset
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from jetlit.datamodules.mixture import Mixture
from jetlit.datamodules.resumable import ResumableLoader
from jetlit.errors import UserError


class TokenDataModule(LightningDataModule):
    """Streams blocks of tokens; batches are {"input_ids": int64 [batch_size, block_size]}.

    Training shuffles, gives each rank blocks of its own and drops the last short batch. A Lightning checkpoint holds
    the position; a resumed run sees exactly the batches that an undisturbed one would have seen. A single corpus may be
    resumed with another number of ranks or workers or another batch size (litdata redistributes the rest of the
    epoch); a mixture may not.

    A mixture draws each block's corpus at random by weight; its epoch ends when the corpus that is used up first is,
    and all start the next one freshly shuffled.

    Args:
        corpora: folder or s3:// path of a corpus that `jetlit data` prepared, or a mapping of such to weights.
        block_size: tokens T to a block.
        batch_size: blocks B to a batch, on each rank.
        num_workers: loading processes on each rank.
        seed: of shuffling and mixing.
        val_batches: batches of validation in all, taken from each corpus by weight; fewer where there are fewer.
        vocab_size: rows of the model's embedding, where the model is not there to be asked.
    """

    def __init__(
        self,
        corpora: dict[str, float] | str,
        block_size: int,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        val_batches: int = 8,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        self.corpora = {corpora: 1.0} if isinstance(corpora, str) else dict(corpora)
        self.block_size = block_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_batches = val_batches
        self.vocab_size = vocab_size
        self._check_arguments()

    def setup(self, stage: str | None = None) -> None:
        """Check that every corpus is finished, whole and fits the block size and the vocabulary.

        Raises:
            UserError: one is not.
        """
        for path, info in self.infos.items():
            self._check_blocks(path, info)
            if self.vocab_size is not None:
                check_vocabulary(info.vocab_size, self.vocab_size)
        if len({info.tokenizer for info in self.infos.values()}) > 1:
            raise UserError(
                "The corpora were prepared with different tokenizers: prepare all of a mixture with the same one."
            )

    @cached_property
    def infos(self) -> dict[str, CorpusInfo]:
        """corpus.json of each corpus, by path."""
        return {path: read_corpus(path) for path in self.corpora}

    @property
    def data_vocab_size(self) -> int:
        """One more than the largest token id that may occur."""
        return max(info.vocab_size for info in self.infos.values())

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer the data was prepared with can be loaded from."""
        first = next(iter(self.corpora))
        local = Path(first) / "tokenizer"
        return str(local) if local.is_dir() else self.infos[first].tokenizer

    def train_dataloader(self) -> ResumableLoader:
        """Endlessly shuffled epochs of this rank's batches."""
        datasets = [
            open_split(path, "train", self.block_size, shuffle=True, seed=self.seed + number)
            for number, path in enumerate(self.corpora)
        ]
        dataset = datasets[0] if len(datasets) == 1 else Mixture(datasets, list(self.corpora.values()), self.seed)
        return ResumableLoader(dataset, self.batch_size, self.num_workers, self._fingerprint())

    def val_dataloader(self) -> DataLoader:
        """The same blocks in the same order every time; Lightning shares them out over the ranks.

        It reads in the process itself: validation starts often and reads little.
        """
        blocks = self.val_batches * self.batch_size
        total = sum(self.corpora.values())
        parts: list[Dataset] = [
            _first_blocks(
                open_split(path, "val", self.block_size, shuffle=False), max(1, round(blocks * weight / total))
            )
            for path, weight in self.corpora.items()
        ]
        return DataLoader(ConcatDataset(parts), batch_size=self.batch_size, pin_memory=torch.cuda.is_available())

    def _fingerprint(self) -> str:
        """What decides the order of the blocks, whoever reads them and wherever the corpora lie."""
        corpora = [[info.splits["train"].index_sha256, self.corpora[path]] for path, info in self.infos.items()]
        return json.dumps([corpora, self.block_size, self.seed])

    def _check_arguments(self) -> None:
        if not self.corpora:
            raise UserError("No corpus is named: set corpora to the folder of one, or to folders with weights.")
        for path, weight in self.corpora.items():
            if weight <= 0:
                raise UserError(f"Corpus {path} has weight {weight}: give a positive one or leave the corpus out.")
        for name in ("block_size", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a positive number.")

    def _check_blocks(self, path: str, info: CorpusInfo) -> None:
        for split, content in info.splits.items():
            largest = max(chunk.tokens for chunk in content.chunks)
            if self.block_size > largest:
                raise UserError(
                    f"A block of {self.block_size} tokens is longer than the largest {split} chunk of {path} "
                    f"({largest}): prepare the corpus with larger chunk_tokens or more text, or shorten block_size."
                )
        blocks = sum(chunk.tokens // self.block_size for chunk in info.splits["train"].chunks)
        world = self.trainer.world_size if self.trainer is not None else 1
        needed = self.batch_size * max(self.num_workers, 1) * world
        if blocks < needed:
            raise UserError(
                f"{path} has {blocks} blocks of {self.block_size} tokens to train on, and one batch for each loading "
                f"process takes {needed}: prepare more text, or lower batch_size, num_workers or block_size."
            )


def _first_blocks(dataset: StreamingDataset, count: int) -> Dataset:
    return Subset(dataset, range(min(count, len(dataset))))
