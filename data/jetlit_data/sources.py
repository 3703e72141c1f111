"""Where documents come from: folders, the standard library, hub datasets, generators. Each source yields texts."""

import dataclasses
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jetlit.errors import UserError
from jetlit_data.arithmetic import Arithmetic
from jetlit_data.debian import DebianSource
from jetlit_data.generated import Generator, text_of
from jetlit_data.recall import Recall
from jetlit_data.repetition import Repetition

GENERATORS: dict[str, Callable[..., Generator]] = {
    "recall": Recall,
    "repetition": Repetition,
    "arithmetic": Arithmetic,
}
_PLAIN_SUFFIXES = (".txt", ".md", ".py")
_SUFFIXES = (*_PLAIN_SUFFIXES, ".jsonl", ".parquet")
_HUB_PREFIX = "hub:"


class Source(Protocol):
    """Documents in a fixed order."""

    def documents(self) -> Iterator[str]:
        """The documents, once through; generated ones never end."""
        ...

    def size(self) -> int | None:
        """Bytes of text in all as far as known, for the progress bar."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Documents of files: one a .txt, .md or .py file, one a line of .jsonl, one a row of .parquet.

    Attributes:
        files: the files in the order they are read.
        text_field: the key or column that holds the text.
    """

    files: tuple[Path, ...]
    text_field: str = "text"

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def documents(self) -> Iterator[str]:
        """The documents of all files."""
        for path in self.files:
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
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        try:
            table = ParquetFile(path)
        except ArrowInvalid as error:
            raise UserError(f"{path} is not a Parquet file ({error}): remove or replace it.") from error
        if self.text_field not in table.schema_arrow.names:
            columns = ", ".join(table.schema_arrow.names)
            raise UserError(f'{path} has no column "{self.text_field}": set text_field to one of {columns}.')
        for batch in table.iter_batches(batch_size=256, columns=[self.text_field]):
            for value in batch.column(0):
                text = value.as_py()
                if isinstance(text, str):
                    yield text


@dataclass(frozen=True)
class GeneratedSource:
    """Endless documents of a generator, for training."""

    generator: Generator
    seed: int

    def size(self) -> None:
        """Endless."""

    def documents(self) -> Iterator[str]:
        """The generated documents as text."""
        return (text_of(spans) for spans in self.generator.documents(self.seed, "train"))


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub, streamed through the optional `datasets` library.

    Attributes:
        name: name of the data set, or of a builder such as "json".
        config: its configuration, where it has several.
        split: which split to read.
        text_field: the column that holds the text.
        data_files: files for a builder.
        revision: a commit or tag, so that the corpus can be made again.
    """

    name: str
    config: str | None = None
    split: str = "train"
    text_field: str = "text"
    data_files: str | None = None
    revision: str | None = None

    def size(self) -> None:
        """Not known before it is read."""

    def documents(self) -> Iterator[str]:
        """The text of every row."""
        try:
            from datasets import load_dataset
        except ImportError:
            raise UserError("Hub data sets need the library datasets: pip install 'jetlit[hub]'.") from None
        rows = load_dataset(
            self.name,
            self.config,
            split=self.split,
            data_files=self.data_files,
            revision=self.revision,
            streaming=True,
        )
        for row in rows:
            if not isinstance(row.get(self.text_field), str):
                columns = ", ".join(row)
                raise UserError(
                    f'Data set {self.name} has no text column "{self.text_field}": set text_field to one of {columns}.'
                )
            yield row[self.text_field]


def open_source(source: str, options: dict[str, Any], seed: int) -> Source:
    """The source of a corpus.

    Args:
        source: "stdlib", "debian", "recall", "repetition", "arithmetic", "hub:NAME", or a folder or file.
        options: settings of that source: the attributes of `Recall`, `DebianSource`, `HubSource`, or text_field.
        seed: of generated documents, and of the order in which files are read.

    Raises:
        UserError: there is no such source, or it has no such option.
    """
    if source in GENERATORS:
        return GeneratedSource(_build(GENERATORS[source], source, options), seed)
    if source == "debian":
        return _build(DebianSource, source, options, seed=seed)
    if source.startswith(_HUB_PREFIX):
        return _build(HubSource, source, options, name=source.removeprefix(_HUB_PREFIX))
    files = _standard_library() if source == "stdlib" else _text_files(Path(source))
    # The order of names goes by subject; a corpus cut short by max_tokens should not.
    random.Random(seed).shuffle(files)
    return _build(FileSource, source, options, files=tuple(files))


def build_generator(kind: str, options: dict[str, Any]) -> Generator:
    """The generator of that name ("recall" or "arithmetic") with the given settings.

    Raises:
        UserError: there is no such generator, or it has no such setting.
    """
    if kind not in GENERATORS:
        raise UserError(f'There is no generator "{kind}": choose one of {", ".join(GENERATORS)}.')
    return _build(GENERATORS[kind], kind, options)


def _build(kind: Callable[..., Any], source: str, options: dict[str, Any], **given: Any) -> Any:
    fields = [field for field in dataclasses.fields(kind) if field.name not in given]  # type: ignore[arg-type]
    known = [field.name for field in fields]
    for option in options:
        if option not in known:
            raise UserError(f'Source "{source}" has no option "{option}": it takes {", ".join(known)}.')
    missing = next((field.name for field in fields if _is_required(field) and field.name not in options), None)
    if missing is not None:
        raise UserError(f'Source "{source}" needs the option "{missing}".')
    return kind(**given, **options)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _text_files(path: Path) -> list[Path]:
    if not path.exists():
        known = ", ".join(("stdlib", "debian", *GENERATORS, "hub:NAME"))
        raise UserError(f'There is no source "{path}": give one of {known}, or an existing folder.')
    candidates = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in candidates if file.suffix in _SUFFIXES and file.is_file()]
    if not files:
        raise UserError(f"{path} holds no text: no file ending in {', '.join(_SUFFIXES)} is there.")
    return files


def _standard_library() -> list[Path]:
    """Python sources of the running interpreter's own library, without its tests and what was installed into it."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    files = [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts)]
    if not files:
        raise UserError(f"This Python has no library sources in {root}: give a folder of text instead.")
    return files
