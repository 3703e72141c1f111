"""corpus.json: what a prepared corpus holds, and checks of its files."""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit_data.encoding import tokenizer_digest
from jetlit_data.tokenizer import load_tokenizer

CORPUS_FILE = "corpus.json"
INDEX_FILE = "index.json"
_FORMAT = 1


@dataclass(frozen=True)
class ChunkInfo:
    """A chunk: file name, number of tokens, size in bytes and SHA-256."""

    filename: str
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """A split: number of documents and tokens, SHA-256 of the index, and the chunks."""

    documents: int
    tokens: int
    index_sha256: str
    chunks: list[ChunkInfo]


@dataclass(frozen=True)
class CorpusInfo:
    """corpus.json: what the corpus was made from and what is in it.

    Attributes:
        name: name of the corpus.
        source: source of its text, as given to `prepare`.
        options: options of the source.
        seed: seed of the preparation.
        tokenizer: name or path of the tokenizer.
        vocab_size: one more than the tokenizer's largest id.
        eos_token_id: id of the token that ends documents.
        dtype: dtype of the tokens in the chunks, "uint16" or "int32".
        duplicates: number of dropped copies of earlier documents.
        splits: "train" and "val".
        near_duplicates: number of dropped documents that repeat much text of earlier ones.
        skipped: what the source left out: how many by kind, such as "rows without a text".
        tokenizer_digest: `jetlit_data.encoding.tokenizer_digest` of the tokenizer; None in corpora of version 0.1.
    """

    name: str
    source: str
    options: dict[str, Any]
    seed: int
    tokenizer: str
    vocab_size: int
    eos_token_id: int
    dtype: str
    duplicates: int
    splits: dict[str, SplitInfo]
    near_duplicates: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    tokenizer_digest: str | None = None

    def save(self, folder: Path) -> None:
        """Write corpus.json, which makes the folder a finished corpus."""
        write_json(folder / CORPUS_FILE, {"format": _FORMAT, **asdict(self)})


def read_corpus(path: str) -> CorpusInfo:
    """Read corpus.json, and check the files of a local corpus.

    Args:
        path: folder or s3:// path of the corpus.

    Raises:
        UserError: it is not a finished corpus, or a file is missing or has the wrong size.
    """
    if "://" in path:
        return _parse(_fetch_json(f"{path.rstrip('/')}/{CORPUS_FILE}"), path)
    folder = Path(path)
    if not (folder / CORPUS_FILE).is_file():
        raise UserError(
            f"{folder} is not a finished corpus (it has no {CORPUS_FILE}): run jetlit data, or correct the path."
        )
    info = _parse(read_json(folder / CORPUS_FILE), path)
    for split, content in info.splits.items():
        _check_files(folder / split, content)
    return info


def _parse(record: dict[str, Any], path: str) -> CorpusInfo:
    try:
        if record.pop("format") != _FORMAT:
            raise KeyError("format")
        splits = {
            name: SplitInfo(**{**split, "chunks": [ChunkInfo(**chunk) for chunk in split["chunks"]]})
            for name, split in record.pop("splits").items()
        }
        info = CorpusInfo(splits=splits, **record)
        for name, split in splits.items():
            check_plain_names([name, *(chunk.filename for chunk in split.chunks)], path)
        return info
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}/{CORPUS_FILE} was not written by this version of jetlit ({error}): prepare the corpus again."
        ) from error


def _check_files(folder: Path, split: SplitInfo) -> None:
    for chunk in split.chunks:
        path = folder / chunk.filename
        if not path.is_file():
            raise UserError(f"Chunk {path} is missing: prepare the corpus again or restore the file from its copy.")
        check_size(path, chunk.bytes)
    index = folder / INDEX_FILE
    if not index.is_file() or sha256_of(index) != split.index_sha256:
        raise UserError(f"{index} is missing or damaged: prepare the corpus again or restore the file from its copy.")


def check_tokens(path: str, info: CorpusInfo, model: str | Path) -> None:
    """Refuse a corpus in other tokens than a model's. Where one of the two has no tokenizer, nothing is compared.

    Args:
        path: folder or s3:// path of the corpus.
        info: its corpus.json.
        model: folder or hub name of the model.

    Raises:
        UserError: the tokenizers differ.
    """
    own = corpus_digest(path, info)
    try:
        digest = tokenizer_digest(load_tokenizer(model))
    except UserError:
        return
    if own not in (None, digest):
        raise UserError(
            f"The corpus {path} is in the tokens of another tokenizer ({info.tokenizer}) than that of {model}: prepare "
            f"it again with tokenizer: {model}."
        )


def corpus_digest(path: str, info: CorpusInfo) -> str | None:
    """Return the digest of a corpus' tokenizer; None for a remote corpus of version 0.1, which does not say it."""
    folder = Path(path, "tokenizer")
    if info.tokenizer_digest is None and "://" not in path and folder.is_dir():
        return tokenizer_digest(load_tokenizer(folder))
    return info.tokenizer_digest


def check_plain_names(names: Iterable[Any], where: str) -> None:
    """Refuse what is no plain name of a file: a path would lead out of the corpus or of its cache.

    Raises:
        UserError: a name is a path, or no text.
    """
    for name in names:
        plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
        if not plain:
            raise UserError(f"{where} names the file {name!r}, which no corpus holds: prepare or copy it again.")


def check_size(path: Path, expected: int) -> None:
    """Refuse a chunk of another size in bytes than expected, with a UserError."""
    size = path.stat().st_size
    if size != expected:
        raise UserError(
            f"Chunk {path} is damaged ({size} bytes instead of {expected}): "
            "prepare the corpus again or restore the file from its copy."
        )


def sha256_of(path: str | Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_json(url: str) -> dict[str, Any]:
    """Read a JSON file of an object store with litdata's client."""
    from litdata.streaming.downloader import get_downloader  # takes seconds to import

    content = io.BytesIO()
    try:
        get_downloader(url.rpartition("/")[0], tempfile.gettempdir(), []).download_fileobj(url, content)
        return json.loads(content.getvalue())
    except Exception as error:  # every object store raises its own
        reason = str(error).partition("\n")[0]
        raise UserError(f"{url} could not be read ({reason}): check the path and your credentials.") from error
