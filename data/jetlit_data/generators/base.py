"""What generators have in common."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Purpose = Literal["train", "task"]


@dataclass(frozen=True)
class Span:
    """A piece of a generated document. Tasks ask for the answers."""

    text: str
    is_answer: bool = False


class Generator(Protocol):
    """A family of documents made of spans."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing an answer blindly."""
        ...

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Yield documents without end: the same for the same seed and purpose, others for each other purpose."""
        ...


def generator_rng(name: str, seed: int, purpose: Purpose) -> random.Random:
    """Return the random generator of a family, seed and purpose. Tasks never replay training data."""
    return random.Random(f"{name}/{purpose}/{seed}")


def text_of(spans: list[Span]) -> str:
    """Return the document as plain text."""
    return "".join(span.text for span in spans)
