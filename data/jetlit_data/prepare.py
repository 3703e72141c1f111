"""Turning text into corpora: folders of litdata token chunks that a `TokenDataModule` streams."""

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.files import atomic_folder
from jetlit_data.corpus import CORPUS_FILE, CorpusInfo
from jetlit_data.corpus_progress import corpus_progress
from jetlit_data.encoding import encode_documents, tokenizer_digest
from jetlit_data.overlap import SeenParagraphs
from jetlit_data.sources import Skipped, Source, open_source
from jetlit_data.tokenizer import load_tokenizer, vocabulary_size

logger = logging.getLogger(__name__)

# Documents and characters that are encoded together: a fast tokenizer spreads them over its threads.
_DOCUMENTS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 2**22
_DIGEST_BYTES = 16


@dataclass
class CorpusSpec:
    """One corpus to prepare.

    Attributes:
        source: a source of text (data/README.md lists them), "hub:NAME", or a folder or file.
        max_tokens: stop after this many tokens, training and validation together. Generated sources never end and need
            it.
        options: options of the source.
    """

    source: str = "stdlib"
    max_tokens: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def prepare(
    out_dir: str,
    corpora: dict[str, CorpusSpec],
    tokenizer: str = "bytes",
    val_fraction: float = 0.02,
    chunk_tokens: int = 2**22,
    seed: int = 0,
    near_duplicates: float | None = None,
    progress: bool = True,
) -> dict[str, CorpusInfo]:
    """Prepare corpora: each becomes `out_dir/NAME/` with train/, val/, tokenizer/ and, last, corpus.json.

    Documents end with EOS. A hash of its text decides whether a document goes to training or validation. Exact copies
    are dropped. A corpus appears whole, in place of an earlier one, or not at all.

    Args:
        out_dir: folder of all corpora.
        corpora: name to specification.
        tokenizer: "bytes", a folder or a hub name.
        val_fraction: share of the documents held out for validation, between 0 and 1.
        chunk_tokens: tokens of a chunk; a multiple of the block size wastes none.
        seed: seed of generated documents and of the order of files.
        near_duplicates: drop documents with more than this share of their text, paragraph by paragraph, in earlier ones
            of any corpus, so that validation shares no more with training. None keeps them.
        progress: show progress bars.

    Returns:
        What was prepared, by name.

    Raises:
        UserError: an argument or a source is wrong, a split would be empty, or the disk is full.
    """
    if not corpora:
        raise UserError("No corpus is named: list at least one under corpora.")
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}: give a share between 0 and 1, such as 0.02.")
    if near_duplicates is not None and not 0 <= near_duplicates < 1:
        raise UserError(f"near_duplicates is {near_duplicates}: give a share from 0 to 1, such as 0.3, or null.")
    if chunk_tokens < 1:
        raise UserError(f"chunk_tokens is {chunk_tokens}: give a positive number of tokens.")
    loaded = load_tokenizer(tokenizer)
    sources = {name: open_source(spec.source, spec.options) for name, spec in corpora.items()}
    for name, spec in corpora.items():
        _check(name, spec, sources[name], Path(out_dir, name))
    prepared = {}
    seen = None if near_duplicates is None else SeenParagraphs(near_duplicates)
    for name, spec in corpora.items():
        build = _Build(name, spec, sources[name], loaded, tokenizer, val_fraction, chunk_tokens, seed, seen, progress)
        with atomic_folder(Path(out_dir, name)) as folder:
            prepared[name] = build.run(folder)
    return prepared


def _check(name: str, spec: CorpusSpec, source: Source, folder: Path) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f'"{name}" is no name for a corpus, which becomes a folder: use letters, digits and "-".')
    if spec.max_tokens is None and source.size() == math.inf:
        raise UserError(f'Corpus "{name}" never ends: give it max_tokens.')
    if spec.max_tokens is not None and spec.max_tokens < 1:
        raise UserError(f'Corpus "{name}" has max_tokens {spec.max_tokens}: give a positive number.')
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another out_dir or name.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CORPUS_FILE).exists():
        raise UserError(f"{folder} holds something that is not a corpus: choose another out_dir or remove it.")


@dataclass
class _Build:
    """The preparation of one corpus."""

    name: str
    spec: CorpusSpec
    source: Source
    tokenizer: PreTrainedTokenizerBase
    tokenizer_name: str
    val_fraction: float
    chunk_tokens: int
    seed: int
    paragraphs: SeenParagraphs | None
    progress: bool
    duplicates: int = 0
    near_duplicates: int = 0

    @property
    def skipped(self) -> Skipped:
        """What the source left out."""
        return getattr(self.source, "skipped", None) or Skipped()

    def run(self, folder: Path) -> CorpusInfo:
        from jetlit_data.chunks import ChunkWriter  # litdata takes seconds to import

        vocabulary = vocabulary_size(self.tokenizer)
        dtype = np.dtype("uint16" if vocabulary <= 2**16 else "int32")
        writers = {split: ChunkWriter(folder / split, self.chunk_tokens, dtype) for split in ("train", "val")}
        for split, tokens in self._tokens():
            writers[split].add(tokens)
        if self.skipped.counts:
            logger.warning('Corpus "%s" leaves out %s.', self.name, self.skipped)
        for split, writer in writers.items():
            if not writer.tokens:
                left_out = f", of which {self.skipped} were left out" if self.skipped.counts else ""
                raise UserError(
                    f'The {split} split of corpus "{self.name}" is empty: give more documents{left_out}, '
                    f"or change val_fraction ({self.val_fraction})."
                )
        info = CorpusInfo(
            name=self.name,
            source=self.spec.source,
            options=self.spec.options,
            seed=self.seed,
            tokenizer=self.tokenizer_name,
            vocab_size=vocabulary,
            eos_token_id=int(self.tokenizer.eos_token_id),  # type: ignore[arg-type]
            dtype=dtype.name,
            duplicates=self.duplicates,
            splits={split: writer.close() for split, writer in writers.items()},
            near_duplicates=self.near_duplicates,
            skipped=dict(self.skipped.counts),
            tokenizer_digest=tokenizer_digest(self.tokenizer),
        )
        self.tokenizer.save_pretrained(folder / "tokenizer")
        info.save(folder)
        return info

    def _tokens(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield split and token ids of each document, up to max_tokens in all."""
        left = self.spec.max_tokens
        documents = self._distinct()
        with corpus_progress(self.name, left, self.source.size(), self.progress) as advance:
            for batch in _batches(documents):
                encoded = encode_documents(self.tokenizer, [text for _, text in batch])
                advance(sum(map(len, encoded)), sum(len(text) for _, text in batch))
                for (split, _), tokens in zip(batch, encoded):
                    if left is not None and len(tokens) >= left:
                        yield split, np.append(tokens[: left - 1], tokens[-1])  # cut short, and still ended by EOS
                        return
                    yield split, tokens
                    left = None if left is None else left - len(tokens)

    def _distinct(self) -> Iterator[tuple[str, str]]:
        """Yield split and text of each document that is neither empty nor a copy, or nearly one, of an earlier one."""
        seen: set[bytes] = set()
        threshold = int(self.val_fraction * 2 ** (8 * _DIGEST_BYTES))
        for text in self._texts():
            if not text.strip():
                continue
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
            if digest in seen:
                self.duplicates += 1
                continue
            seen.add(digest)
            if self.paragraphs is not None and not self.paragraphs.admit(text):
                self.near_duplicates += 1
                continue
            yield ("val" if int.from_bytes(digest) < threshold else "train"), text

    def _texts(self) -> Iterator[str]:
        try:
            yield from self.source.documents(self.seed)
        except OSError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f'Source "{self.spec.source}" could not be read ({reason}): check its path or name, its permissions '
                "and the connection."
            ) from error


def _batches(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Yield documents, with their splits, in batches to encode together."""
    batch: list[tuple[str, str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if len(batch) >= _DOCUMENTS_AT_ONCE or size >= _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
