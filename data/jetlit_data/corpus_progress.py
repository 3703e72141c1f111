"""The progress bar of a preparation: tokens done, rate and time left."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _TokenColumn(ProgressColumn):
    """Tokens so far and tokens per second."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        tokens = task.fields["tokens"]
        rate = tokens / task.elapsed if task.elapsed else 0.0
        return Text(f"{tokens:,} tokens, {rate:,.0f}/s")


@contextlib.contextmanager
def corpus_progress(
    name: str, max_tokens: int | None, size: float | None, show: bool
) -> Iterator[Callable[[int, int], None]]:
    """A bar whose end is `max_tokens` or the source's `size` in bytes, whichever comes first.

    Yields:
        A function to call with newly done tokens and characters.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        _TokenColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    known = max_tokens is not None or size is not None
    tokens = characters = 0
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bars:
        bar = bars.add_task(f"Preparing {name}", total=1.0 if known else None, tokens=0)

        def advance(more_tokens: int, more_characters: int) -> None:
            nonlocal tokens, characters
            tokens += more_tokens
            characters += more_characters
            by_tokens = tokens / max_tokens if max_tokens else 0.0
            by_size = characters / size if size else 0.0
            bars.update(bar, completed=min(max(by_tokens, by_size), 1.0), tokens=tokens)

        yield advance
        bars.update(bar, completed=1.0, total=1.0)
