"""Files as a source of text: a folder, or the standard library of the running Python."""

import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jetlit.errors import UserError
from jetlit_data.sources.base import register_source

_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")


@dataclass(frozen=True)
class FileSource:
    """Documents of files: each .txt, .md or .py file, each line of .jsonl, each row of .parquet.

    Attributes:
        files: the files.
        text_field: the key or column that holds the text.
    """

    files: tuple[Path, ...]
    text_field: str = "text"

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the documents, files shuffled: names go by subject, and `max_tokens` would cut subjects off."""
        files = list(self.files)
        random.Random(seed).shuffle(files)
        for path in files:
            if path.suffix == ".jsonl":
                yield from self._json_lines(path)
            elif path.suffix == ".parquet":
                yield from self._parquet_rows(path)
            else:
                yield path.read_text(encoding="utf-8", errors="replace")

    def _json_lines(self, path: Path) -> Iterator[str]:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield self._text_of_line(line, f"{path}, line {number}")

    def _text_of_line(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON ({error.msg}): correct or remove that line.") from None
        if not isinstance(record, dict) or not isinstance(record.get(self.text_field), str):
            raise UserError(f'{where} has no text under "{self.text_field}": set text_field to the key that holds it.')
        return record[self.text_field]

    def _parquet_rows(self, path: Path) -> Iterator[str]:
        from pyarrow import ArrowException  # takes long to import
        from pyarrow.parquet import ParquetFile

        try:
            table = ParquetFile(path)
            if self.text_field not in table.schema_arrow.names:
                columns = ", ".join(table.schema_arrow.names)
                raise UserError(f'{path} has no column "{self.text_field}": set text_field to one of {columns}.')
            for batch in table.iter_batches(batch_size=256, columns=[self.text_field]):
                yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))
        except ArrowException as error:
            raise UserError(f"{path} is not a Parquet file, or damaged ({error}): remove or replace it.") from error


@register_source("folder")
def folder(name: str, text_field: str = "text") -> FileSource:
    """Return the source of a file, or of all text files in a folder and the folders below it.

    Args:
        name: path of the folder or file.
        text_field: see `FileSource`.

    Raises:
        UserError: there is no text.
    """
    root = Path(name)
    candidates = [root] if root.is_file() else sorted(root.rglob("*"))
    files = [path for path in candidates if path.suffix in _SUFFIXES and path.is_file()]
    if not files:
        raise UserError(f"{root} holds no text: no file ending in {', '.join(_SUFFIXES)} is there.")
    return FileSource(tuple(files), text_field)


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
