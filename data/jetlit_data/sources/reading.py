"""Bytes of files as text: compressed or not, in an encoding that is known."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jetlit.errors import UserError

# UTF-32 before UTF-16, whose mark begins it.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _open_arrow(path: Path) -> Any:
    from pyarrow import input_stream  # takes long to import

    return input_stream(str(path))  # takes the compression from the name


COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_arrow,
    ".lz4": _open_arrow,
}


def uncompressed_name(path: Path) -> Path:
    """Return the path without the ending of a compression."""
    return path.with_suffix("") if path.suffix in COMPRESSED else path


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[Any]:
    """Open a file to read the bytes it holds, uncompressed.

    Raises:
        UserError: the file is damaged.
    """
    opener = COMPRESSED.get(path.suffix, lambda path: path.open("rb"))
    try:
        with opener(path) as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): replace or remove it, or correct its permissions."
        ) from error


def check_encoding(encoding: str) -> None:
    """Refuse what is no encoding of text, with a UserError."""
    try:
        "".encode(encoding)
    except LookupError:
        raise UserError(f'There is no text encoding "{encoding}": write utf-8, latin-1, cp1252 or another.') from None


def encoding_of(beginning: bytes, encoding: str) -> str:
    """Return the encoding that a file's byte-order mark names, or else `encoding`."""
    return next((marked for mark, marked in _MARKS.items() if beginning.startswith(mark)), encoding)


def decode(data: bytes, encoding: str) -> str | None:
    """Return a file's text without its byte-order mark, lines ended by "\\n".

    Returns:
        None for bytes in another encoding, and for NUL characters, which UTF-16 without a mark and binary files have.
    """
    try:
        text = data.decode(encoding_of(data, encoding))
    except UnicodeError:
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def lines(file: Any, encoding: str) -> Iterator[str | None]:
    """Yield the lines of a file, None for one in another encoding."""
    beginning = file.read(4)
    marked = encoding_of(beginning, encoding)
    data = _Joined(beginning, file)
    if not codecs.lookup(marked).name.startswith(("utf-16", "utf-32")):
        for line in io.BufferedReader(data):
            yield decode(line, encoding)
        return
    try:
        yield from io.TextIOWrapper(io.BufferedReader(data), encoding=marked)
    except UnicodeError:
        yield None


class _Joined(io.RawIOBase):
    """Bytes that were read before, and then the rest of a file."""

    def __init__(self, beginning: bytes, rest: Any) -> None:
        self._beginning = beginning
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._beginning[: len(buffer)] or self._rest.read(len(buffer))
        self._beginning = self._beginning[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
