"""Files as a source of text: a folder, or the standard library of the running Python."""

import json
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jetlit.errors import UserError
from jetlit_data.sources.base import Skipped, register_source
from jetlit_data.sources.reading import COMPRESSED, check_encoding, decode, lines, open_bytes, uncompressed_name

_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")


@dataclass(frozen=True)
class FileSource:
    """Documents of files: each .txt, .md or .py file, each line of .jsonl, each row of .parquet.

    Attributes:
        files: the files. Those that end in .gz, .bz2, .xz, .zst or .lz4 are uncompressed.
        text_field: the key or column that holds the text.
        encoding: encoding of files without a byte-order mark. A file in another one is skipped.
        passed_over: files that are not read, with why.
        skipped: what the last pass left out.
    """

    files: tuple[Path, ...]
    text_field: str = "text"
    encoding: str = "utf-8"
    passed_over: tuple[tuple[str, Path], ...] = ()
    skipped: Skipped = field(default_factory=Skipped, compare=False)

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the documents, files shuffled: names go by subject, and `max_tokens` would cut subjects off."""
        self.skipped.clear()
        for kind, path in self.passed_over:
            self.skipped.add(kind, path)
        files = list(self.files)
        random.Random(seed).shuffle(files)
        for path in files:
            kind = uncompressed_name(path).suffix
            if kind == ".jsonl":
                yield from self._json_lines(path)
            elif kind == ".parquet":
                yield from self._parquet_rows(path)
            else:
                yield from self._whole(path)

    def _whole(self, path: Path) -> Iterator[str]:
        with open_bytes(path) as file:
            text = decode(file.read(), self.encoding)
        if text is None:
            self.skipped.add(f"files that are not {self.encoding} text", path)
        else:
            yield text

    def _json_lines(self, path: Path) -> Iterator[str]:
        with open_bytes(path) as file:
            for number, line in enumerate(lines(file, self.encoding), start=1):
                where = f"{path}, line {number}"
                if line is None:
                    self.skipped.add(f"lines that are not {self.encoding} text", where)
                elif line.strip():
                    text = self._text_of_line(line, where)
                    if text is None:
                        self.skipped.add("rows without a text", where)
                    else:
                        yield text

    def _text_of_line(self, line: str, where: str) -> str | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UserError(f"{where} is not valid JSON ({reason}): correct or remove that line.") from None
        if not isinstance(record, dict) or self.text_field not in record:
            raise UserError(f'{where} has no text under "{self.text_field}": set text_field to the key that holds it.')
        text = record[self.text_field]
        return text if isinstance(text, str) else None

    def _parquet_rows(self, path: Path) -> Iterator[str]:
        from pyarrow import ArrowException  # takes long to import
        from pyarrow.parquet import ParquetFile

        try:
            table = ParquetFile(path)
            if self.text_field not in table.schema_arrow.names:
                columns = ", ".join(table.schema_arrow.names)
                raise UserError(f'{path} has no column "{self.text_field}": set text_field to one of {columns}.')
            for batch in table.iter_batches(batch_size=256, columns=[self.text_field]):
                for text in batch.column(0).to_pylist():
                    if isinstance(text, str):
                        yield text
                    else:
                        self.skipped.add("rows without a text", path)
        except (ArrowException, OSError, UnicodeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path} is not a Parquet file, or damaged ({reason}): remove or replace it.") from error


@register_source("folder")
def folder(name: str, text_field: str = "text", encoding: str = "utf-8") -> FileSource:
    """Return the source of a file, or of all text files in a folder and the folders below it, links followed.

    Args:
        name: path of the folder or file.
        text_field: see `FileSource`.
        encoding: see `FileSource`.

    Raises:
        UserError: there is no text, or no such encoding.
    """
    check_encoding(encoding)
    root = Path(name).expanduser()
    candidates = [root] if root.is_file() else _files_below(root)
    files = [path for path in candidates if _is_text(path)]
    if not files:
        raise UserError(
            f"{root} holds no text: no file ending in {', '.join(_SUFFIXES)} is there, compressed or not "
            f"({', '.join(COMPRESSED)}), among {len(candidates)} files."
        )
    others = tuple((f"{path.suffix or 'other'} files", path) for path in candidates if not _is_text(path))
    return FileSource(tuple(files), text_field, encoding, others)


@register_source("stdlib")
def stdlib() -> FileSource:
    """Return the source of the running Python's library, without its tests and what was installed into it.

    Raises:
        UserError: this Python has no library in source form.
    """
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    files = [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts)]
    if not files:
        raise UserError(f"This Python has no library sources in {root}: give a folder of text instead.")
    return FileSource(tuple(files))


def _is_text(path: Path) -> bool:
    suffix = uncompressed_name(path).suffix
    return suffix in _SUFFIXES and (suffix != ".parquet" or path.suffix == suffix) and path.is_file()


def _files_below(root: Path) -> list[Path]:
    """Return all files, sorted. A folder that several links lead to counts once."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(folder, name) for name in names]
    return sorted(found)
