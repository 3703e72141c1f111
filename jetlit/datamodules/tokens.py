"""The data module: blocks of tokens from a prepared corpus, or from a weighted mixture of several."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jetlit_data.corpus import CorpusInfo, check_tokens, corpus_digest, read_corpus
from jetlit_data.reading import open_split
from jetlit_data.tokenizer import check_vocabulary
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from litdata import StreamingDataset
from torch.utils.data import DataLoader

from jetlit.datamodules.loaders import HeldOutBatches, TrainingBlocks, TrainingLoader, held_out_loader, process_of
from jetlit.datamodules.order import BlockOrder
from jetlit.errors import UserError
from jetlit.values import BlockSize, Count, NonNegativeInt, PositiveFloat, Seed, check_values


@dataclass(frozen=True)
class Corpus:
    """A corpus: its folder or s3:// path, and its share of the blocks. Weights need not add up to 1."""

    path: str
    weight: PositiveFloat = 1.0


class TokenDataModule(LightningDataModule):
    """Streams blocks of tokens: batches of {"input_ids": int64 [batch_size, block_size]}.

    The order of the blocks depends on the corpora, their weights and the seed alone; the processes take them in turn.
    Batches of the same blocks in all, of few processes or of many, therefore train alike, with any num_workers. Blocks
    that fill no batch of every process are left out of an epoch. A mixture draws the corpus of each block by weight;
    its epoch ends when one of the corpora is used up.

    A Lightning checkpoint holds the position as a number of blocks. A resumed run sees exactly the batches of an
    undisturbed one; with other processes or another batch size it sees each block of the epoch once, or is refused
    where no step of the new size ends at the position. Validation reads the same blocks whatever the processes.

    Args:
        corpora: folder or s3:// path of a corpus that `jetlit data` prepared, or a list of such with weights.
        block_size: tokens T of a block.
        batch_size: blocks B of a batch on each rank.
        num_workers: loading processes of each rank; 0 loads in the rank's own process.
        seed: seed of shuffling and mixing, from 0 to 2³² - 1.
        val_batches: held-out batches of batch_size blocks that all processes read together, divided among the corpora
            by weight; a warning says where a corpus has fewer.
        vocab_size: rows of the model's embedding, checked against the corpora; None leaves that to the recipe.
    """

    def __init__(
        self,
        corpora: str | list[Corpus] | dict[str, Any],
        block_size: BlockSize,
        batch_size: Count,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
        val_batches: Count = 8,
        vocab_size: Count | None = None,
    ) -> None:
        super().__init__()
        self.corpora = _checked(corpora)
        self.block_size = block_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_batches = val_batches
        self.vocab_size = vocab_size
        check_values(TokenDataModule.__init__, vars(self))

    def setup(self, stage: str | None = None) -> None:
        """Refuse a corpus that is not finished and whole, or does not fit the block size or vocabulary (UserError)."""
        for corpus, info in zip(self.corpora, self.infos, strict=True):
            self._check_blocks(corpus.path, info)
            if self.vocab_size is not None:
                check_vocabulary(info.vocab_size, self.vocab_size)
        digests = {corpus_digest(corpus.path, info) for corpus, info in zip(self.corpora, self.infos, strict=True)}
        if len(digests - {None}) > 1:
            raise UserError(
                "The corpora were prepared with different tokenizers: prepare all of a mixture with the same one."
            )

    def check_tokens(self, model: str | Path) -> None:
        """Refuse corpora in other tokens than those of a model's folder or hub name (UserError)."""
        for corpus, info in zip(self.corpora, self.infos, strict=True):
            check_tokens(corpus.path, info, model)

    @cached_property
    def infos(self) -> list[CorpusInfo]:
        """corpus.json of each corpus."""
        return [read_corpus(corpus.path) for corpus in self.corpora]

    @property
    def data_vocab_size(self) -> int:
        """One more than the largest token id that may occur."""
        return max(info.vocab_size for info in self.infos)

    @property
    def tokenizer_path(self) -> str:
        """Where `load_tokenizer` finds the corpora's tokenizer."""
        local = Path(self.corpora[0].path) / "tokenizer"
        return str(local) if local.is_dir() else self.infos[0].tokenizer

    def train_dataloader(self) -> TrainingLoader:
        """Return the loader of this process's batches; each epoch is shuffled anew."""
        chunks = [self._blocks(info, "train") for info in self.infos]
        order = BlockOrder(chunks, [corpus.weight for corpus in self.corpora], self.seed)
        process = process_of(self.trainer)
        blocks = TrainingBlocks(self._open("train"), order, self.batch_size, process)
        if len(blocks) == 0:
            raise UserError(
                f"An epoch has {len(order)} blocks of {self.block_size} tokens, and one batch of all processes takes "
                f"{blocks.global_batch}: prepare more text (of a mixture's smallest corpus), or lower batch_size or "
                "block_size."
            )
        return TrainingLoader(blocks, self.num_workers, self._fingerprint(), self.trainer)

    def val_dataloader(self) -> DataLoader:
        """Return the loader of this process's share of the held-out blocks, which are the same every time."""
        total = sum(corpus.weight for corpus in self.corpora)
        chosen = []
        for number, (corpus, info) in enumerate(zip(self.corpora, self.infos, strict=True)):
            wanted = max(1, round(self.val_batches * self.batch_size * corpus.weight / total))
            held_out = sum(self._blocks(info, "val"))
            if wanted > held_out:
                rank_zero_warn(
                    f"Validation asks for {wanted} blocks of {corpus.path}, which has {held_out}: it reads all of "
                    "these; prepare more text or lower val_batches."
                )
            chosen += [(number, block) for block in range(min(wanted, held_out))]
        process = process_of(self.trainer)
        return held_out_loader(HeldOutBatches(self._open("val"), np.array(chosen), self.batch_size, process))

    def _open(self, split: str) -> list[StreamingDataset]:
        return [open_split(corpus.path, split, self.block_size, shuffle=False) for corpus in self.corpora]

    def _blocks(self, info: CorpusInfo, split: str) -> list[int]:
        """Return the whole blocks of each chunk."""
        return [chunk.tokens // self.block_size for chunk in info.splits[split].chunks]

    def _fingerprint(self) -> str:
        """Return what decides the order of the blocks. It holds no path, so that corpora can be moved."""
        corpora = [[i.splits["train"].index_sha256, c.weight] for i, c in zip(self.infos, self.corpora, strict=True)]
        return json.dumps([corpora, self.block_size, self.seed])

    def _check_blocks(self, path: str, info: CorpusInfo) -> None:
        for split, content in info.splits.items():
            largest = max(chunk.tokens for chunk in content.chunks)
            if self.block_size > largest:
                raise UserError(
                    f"A block of {self.block_size} tokens is longer than the largest {split} chunk of {path} "
                    f"({largest}): prepare the corpus with larger chunk_tokens or more text, or shorten block_size."
                )


def _checked(corpora: str | list[Corpus] | dict[str, Any]) -> list[Corpus]:
    if isinstance(corpora, dict):
        raise UserError(
            "Corpora are a list, no longer a mapping of folders to weights: "
            f"write corpora: [{', '.join(f'{{path: {path}, weight: {weight}}}' for path, weight in corpora.items())}]."
        )
    given = [corpora] if isinstance(corpora, str) else corpora
    found = [
        Corpus(**each) if isinstance(each, dict) else Corpus(each) if isinstance(each, str) else each for each in given
    ]
    if not found:
        raise UserError("No corpus is named: set corpora to the folder of one, or to a list of {path, weight}.")
    for corpus in found:
        if not 0 < corpus.weight < math.inf:  # NaN neither
            raise UserError(f"Corpus {corpus.path} has weight {corpus.weight}: give a positive one, or leave it out.")
    return found
