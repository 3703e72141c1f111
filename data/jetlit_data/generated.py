"""What the generated corpora (`recall`, `arithmetic`) have in common."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Purpose = Literal["train", "task"]


@dataclass(frozen=True)
class Span:
    """A piece of a generated document; answers are what a model can be scored on."""

    text: str
    is_answer: bool = False


class Generator(Protocol):
    """A family of documents made of spans."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing an answer blindly."""
        ...

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Endless documents: the same for the same seed, and different ones for each purpose."""
        ...


def generator_rng(name: str, seed: int, purpose: Purpose) -> random.Random:
    """A random generator of its own for each family, seed and purpose, so that tasks never replay training data."""
    return random.Random(f"{name}/{purpose}/{seed}")


def text_of(spans: list[Span]) -> str:
    """The document as plain text."""
    return "".join(span.text for span in spans)
