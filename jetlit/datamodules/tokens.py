"""The data module: blocks of tokens from a prepared corpus, or from a weighted mixture of several."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jetlit_data.corpus import CorpusInfo, check_tokens, corpus_digest, read_corpus
from jetlit_data.reading import open_split
from jetlit_data.tokenizer import check_vocabulary
from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Subset

from jetlit.datamodules.mixture import Mixture
from jetlit.datamodules.resumable import ResumableLoader
from jetlit.errors import UserError
from jetlit.values import BlockSize, Count, NonNegativeInt, PositiveFloat, Seed, check_values


@dataclass(frozen=True)
class Corpus:
    """A corpus: its folder or s3:// path, and its share of the blocks. Weights need not add up to 1."""

    path: str
    weight: PositiveFloat = 1.0


class TokenDataModule(LightningDataModule):
    """Streams blocks of tokens: batches of {"input_ids": int64 [batch_size, block_size]}.

    Training shuffles, gives each rank different blocks and drops the last short batch. A Lightning checkpoint holds the
    position, and a resumed run sees exactly the batches of an undisturbed one. A single corpus can be resumed with
    another number of ranks or workers or another batch size (litdata redistributes the rest of the epoch), a mixture
    cannot. A mixture draws the corpus of each block by weight; its epoch ends when one of the corpora is used up.

    Args:
        corpora: folder or s3:// path of a corpus that `jetlit data` prepared, or a list of such with weights.
        block_size: tokens T of a block.
        batch_size: blocks B of a batch on each rank.
        num_workers: loading processes of each rank.
        seed: seed of shuffling and mixing.
        val_batches: largest number of validation batches, divided among the corpora by weight.
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

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of this rank's batches; each epoch is shuffled anew."""
        datasets = [
            open_split(corpus.path, "train", self.block_size, shuffle=True, seed=self.seed + number)
            for number, corpus in enumerate(self.corpora)
        ]
        weights = [corpus.weight for corpus in self.corpora]
        dataset = datasets[0] if len(datasets) == 1 else Mixture(datasets, weights, self.seed)
        return ResumableLoader(dataset, self.batch_size, self.num_workers, self._fingerprint())

    def val_dataloader(self) -> DataLoader:
        """Return the loader of the same blocks in the same order every time; Lightning deals them to the ranks."""
        total = sum(corpus.weight for corpus in self.corpora)
        parts = []
        for corpus in self.corpora:
            dataset = open_split(corpus.path, "val", self.block_size, shuffle=False)
            count = max(1, round(self.val_batches * self.batch_size * corpus.weight / total))
            parts.append(Subset(dataset, range(min(count, len(dataset)))))
        # No workers: validation starts often and reads little.
        return DataLoader(ConcatDataset(parts), batch_size=self.batch_size, pin_memory=torch.cuda.is_available())

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
        blocks = sum(chunk.tokens // self.block_size for chunk in info.splits["train"].chunks)
        world_size = self.trainer.world_size if self.trainer is not None else 1
        needed = self.batch_size * max(self.num_workers, 1) * world_size
        if blocks < needed:
            raise UserError(
                f"{path} has {blocks} blocks of {self.block_size} tokens to train on, and one batch for each loading "
                f"process takes {needed}: prepare more text, or lower batch_size, num_workers or block_size."
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
