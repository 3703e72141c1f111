"""Generated documents: recall, repetition and arithmetic. Each is a source of text, and a kind of task."""

from collections.abc import Callable

from jetlit_data.generators.arithmetic import Arithmetic
from jetlit_data.generators.base import Generator, Purpose, Span, text_of
from jetlit_data.generators.recall import Recall
from jetlit_data.generators.repetition import Repetition

GENERATORS: dict[str, Callable[..., Generator]] = {
    "recall": Recall,
    "repetition": Repetition,
    "arithmetic": Arithmetic,
}

__all__ = ["GENERATORS", "Arithmetic", "Generator", "Purpose", "Recall", "Repetition", "Span", "text_of"]
