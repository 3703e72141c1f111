"""The table of sources of text."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jetlit.errors import UserError
from jetlit.registry import Registry
from jetlit_data.options import build


class Skipped:
    """What a source left out: how many of each kind ("files that are not text"), and where the first was."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, where: object) -> None:
        """Count one."""
        self.counts[kind] += 1
        self.first.setdefault(kind, str(where))

    def clear(self) -> None:
        """Begin a new pass."""
        self.counts.clear()
        self.first.clear()

    def __str__(self) -> str:
        return "; ".join(f"{count} {kind} (first {self.first[kind]})" for kind, count in self.counts.items())


class Source(Protocol):
    """Documents to make a corpus of.

    A source may also have an attribute `skipped: Skipped`, of what the last pass left out.
    """

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the text of each document, in an order that the seed decides where order is free."""
        ...

    def size(self) -> float | None:
        """Return the bytes of text in all, for the progress bar: None if unknown, infinite if documents never end."""
        ...


SOURCES: Registry[Callable[..., Source]] = Registry("source of text", "jetlit.sources")
_Kind = TypeVar("_Kind", bound=Callable[..., Source])


def register_source(name: str) -> Callable[[_Kind], _Kind]:
    """Return a decorator that makes a class or function the source of text `name`.

    Its arguments are the options of the corpus. "NAME:REST" passes REST as the option `name`. Packages register theirs
    by the entry point group `jetlit.sources`.
    """
    return SOURCES.register(name)  # type: ignore[return-value]


def open_source(source: str, options: dict[str, Any]) -> Source:
    """Return the source of a corpus.

    Args:
        source: an entry of `SOURCES`, as "NAME" or "NAME:REST", or a folder or file.
        options: its options.

    Raises:
        UserError: there is no such source, or its options are wrong.
    """
    kind, colon, rest = source.partition(":")
    if kind not in SOURCES:
        if not Path(source).expanduser().exists():
            raise UserError(
                f'There is no source of text "{source}": use one of {", ".join(SOURCES)}, or an existing folder.'
            )
        kind, colon, rest = "folder", ":", source
    return build(SOURCES[kind], f'Source "{kind}"', {**options, "name": rest} if colon else options)
