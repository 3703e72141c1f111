"""Turning text into corpora: folders of litdata token chunks that a `TokenDataModule` streams."""

import contextlib
import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit_data.corpus import CORPUS_FILE, CorpusInfo
from jetlit_data.corpus_progress import corpus_progress
from jetlit_data.overlap import SeenParagraphs
from jetlit_data.sources import Source, open_source
from jetlit_data.tokenizer import encode_documents, load_tokenizer, vocabulary_size

_DOCUMENTS_AT_ONCE = 256  # tokenized together: a fast tokenizer spreads them over its threads
_DIGEST_BYTES = 16


@dataclass
class CorpusSpec:
    """One corpus to prepare.

    Attributes:
        source: "stdlib" (the running Python's library), "debian", "recall", "repetition", "arithmetic", "hub:NAME",
            or a folder of .txt, .md, .py, .jsonl and .parquet files.
        max_tokens: stop after this many tokens, training and validation together; generated sources never end by
            themselves and need it.
        options: settings of the source (attributes of `jetlit_data.Recall`, `DebianSource`, `HubSource`; text_field
            for folders).
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
    """Prepare corpora: each becomes `out_dir/NAME/` with train/, val/, tokenizer/ and, last of all, corpus.json.

    Documents end with EOS; a document goes to training or validation by a hash of its text, whatever the order; exact
    duplicates are dropped. A corpus is built in a folder beside its own and moved there whole, so that an interrupted
    preparation never looks finished; a corpus that is already there is replaced.

    Args:
        out_dir: folder of all corpora.
        corpora: name to specification.
        tokenizer: "bytes", a folder or a hub name.
        val_fraction: share of the documents held out for validation, between 0 and 1.
        chunk_tokens: tokens to a chunk; a multiple of the block size wastes none.
        seed: of generated documents and of the order of files.
        near_duplicates: leave out documents more than this share of whose text stands, paragraph by paragraph, in
            earlier ones of any corpus; so validation shares no more than that with training. None keeps them.
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
    for name in corpora:
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(f'"{name}" is no name for a corpus, which becomes a folder: use letters, digits and "-".')
    loaded = load_tokenizer(tokenizer)
    sources = {name: open_source(spec.source, spec.options) for name, spec in corpora.items()}
    for name, spec in corpora.items():
        _check_limit(name, spec, sources[name])
    prepared = {}
    seen = None if near_duplicates is None else SeenParagraphs(near_duplicates)
    for name, spec in corpora.items():
        build = _Build(name, spec, sources[name], loaded, tokenizer, val_fraction, chunk_tokens, seed, seen, progress)
        with _disk_errors(out_dir), _fresh_folder(Path(out_dir) / name) as folder:
            prepared[name] = build.run(folder)
    return prepared


def _check_limit(name: str, spec: CorpusSpec, source: Source) -> None:
    if spec.max_tokens is None and source.size() == math.inf:
        raise UserError(f'Corpus "{name}" is generated without end: give it max_tokens.')
    if spec.max_tokens is not None and spec.max_tokens < 1:
        raise UserError(f'Corpus "{name}" has max_tokens {spec.max_tokens}: give a positive number.')


@dataclass
class _Build:
    """The making of one corpus."""

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

    def run(self, folder: Path) -> CorpusInfo:
        from jetlit_data.chunks import ChunkWriter  # litdata takes seconds to import

        vocabulary = vocabulary_size(self.tokenizer)
        dtype = np.dtype("uint16" if vocabulary <= 2**16 else "int32")
        writers = {split: ChunkWriter(folder / split, self.chunk_tokens, dtype) for split in ("train", "val")}
        for split, tokens in self._tokens():
            writers[split].add(tokens)
        for split, writer in writers.items():
            if not writer.tokens:
                raise UserError(
                    f'The {split} split of corpus "{self.name}" is empty: give more documents, '
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
        )
        self.tokenizer.save_pretrained(folder / "tokenizer")
        info.save(folder)
        return info

    def _tokens(self) -> Iterator[tuple[str, np.ndarray]]:
        """Split and token ids of each document, up to max_tokens in all."""
        left = self.spec.max_tokens
        documents = self._distinct()
        with corpus_progress(self.name, left, self.source.size(), self.progress) as advance:
            while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
                encoded = encode_documents(self.tokenizer, [text for _, text in batch])
                advance(sum(map(len, encoded)), sum(len(text) for _, text in batch))
                for (split, _), tokens in zip(batch, encoded):
                    if left is not None and len(tokens) >= left:
                        yield split, np.append(tokens[: left - 1], tokens[-1])  # cut short, and still ended by EOS
                        return
                    yield split, tokens
                    left = None if left is None else left - len(tokens)

    def _distinct(self) -> Iterator[tuple[str, str]]:
        """Split and text of each document that is neither empty nor a copy, or nearly one, of an earlier one."""
        seen: set[bytes] = set()
        threshold = int(self.val_fraction * 2 ** (8 * _DIGEST_BYTES))
        for text in self.source.documents(self.seed):
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


@contextlib.contextmanager
def _fresh_folder(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`, moved to `final` on success and removed on any error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not final.is_dir():
        raise UserError(f"{final} is a file: choose another out_dir or name.")
    if final.is_dir() and any(final.iterdir()) and not (final / CORPUS_FILE).exists():
        raise UserError(f"{final} holds something that is not a corpus: choose another out_dir or remove it.")
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.preparing-"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if final.exists():
            discarded = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.replaced-"))
            os.rename(final, discarded / final.name)
            os.rename(temporary, final)
            shutil.rmtree(discarded)
        else:
            os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def _disk_errors(out_dir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: free some space or choose an out_dir elsewhere than {out_dir}; "
                "the unfinished corpus was removed."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{out_dir} cannot be written ({error.strerror}): choose another out_dir.") from error
        raise
