"""Associative recall: pairs of a key and a value, then the keys again in any order, each followed by its value.

The values of the first half cannot be foretold; those of the second half can, by whoever finds the key again. Full
attention learns it with an induction head; a recurrent state must hold every pair at once (Arora et al. 2023,
"Zoology").
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jetlit.errors import UserError
from jetlit_data.generators.base import Purpose, Span, generator_rng


@dataclass(frozen=True)
class _Style:
    """How a document is spelled: symbols, and what stands between, after pairs and between the halves."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    link: str
    end: str
    divider: str


_NOUNS = (
    "river",
    "window",
    "garden",
    "hammer",
    "pencil",
    "mountain",
    "kitchen",
    "rabbit",
    "candle",
    "bridge",
    "pocket",
    "ladder",
    "forest",
    "mirror",
    "basket",
    "engine",
    "blanket",
    "island",
    "button",
    "ticket",
    "castle",
    "feather",
    "bottle",
    "market",
    "lantern",
    "saddle",
    "needle",
    "carpet",
    "violin",
    "harbor",
    "helmet",
    "anchor",
    "drawer",
    "compass",
    "tunnel",
    "hedge",
    "kettle",
    "marble",
    "puppet",
    "rocket",
    "sweater",
    "tractor",
    "valley",
    "wagon",
    "zipper",
    "acorn",
    "barrel",
    "cactus",
    "dolphin",
    "easel",
    "fossil",
    "guitar",
    "hinge",
    "igloo",
    "jacket",
    "kayak",
    "locket",
    "magnet",
    "napkin",
    "orchard",
    "paddle",
    "quilt",
    "ribbon",
    "shovel",
)
_ADJECTIVES = (
    "red",
    "blue",
    "green",
    "yellow",
    "purple",
    "orange",
    "silver",
    "golden",
    "heavy",
    "gentle",
    "narrow",
    "hollow",
    "quiet",
    "bitter",
    "frozen",
    "wooden",
    "ancient",
    "clever",
    "modern",
    "hungry",
    "smooth",
    "distant",
    "famous",
    "empty",
    "bright",
    "simple",
    "strange",
    "perfect",
    "sudden",
    "royal",
    "stormy",
    "dusty",
)

_STYLES = {
    "letters": _Style(
        keys=tuple(string.ascii_lowercase + string.digits),
        values=tuple(string.ascii_uppercase),
        link="",
        end="",
        divider="\n",
    ),
    "words": _Style(keys=_NOUNS, values=_ADJECTIVES, link=" is", end=".", divider="\nSo"),
}


@dataclass(frozen=True)
class Recall:
    """Associative-recall documents.

    With the byte tokenizer and style "letters" a document takes 2·(pairs + queries) + 2 tokens, EOS included: the
    defaults fill a block of 128 exactly, so that no block cuts a document.

    Attributes:
        pairs: pairs of a document, each with a key of its own.
        queries: keys asked for after the pairs; every pair is asked for once before any is asked for again.
        style: "letters" (one byte a key or value) or "words" (English words, for tokenizers of words).
    """

    pairs: int = 24
    queries: int = 39
    style: Literal["letters", "words"] = "letters"

    def __post_init__(self) -> None:
        if self.style not in _STYLES:
            raise UserError(f'Recall has no style "{self.style}": choose one of {", ".join(_STYLES)}.')
        keys = len(_STYLES[self.style].keys)
        if not 1 <= self.pairs <= keys:
            raise UserError(f'Recall with style "{self.style}" takes 1 to {keys} pairs, not {self.pairs}.')
        if self.queries < 1:
            raise UserError(f"Recall needs at least 1 query, not {self.queries}.")

    @property
    def chance(self) -> float:
        """Accuracy of guessing a value blindly."""
        return 1 / len(_STYLES[self.style].values)

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Endless documents of the given seed; those for tasks differ from those for training."""
        rng = generator_rng("recall", seed, purpose)
        style = _STYLES[self.style]
        space = " " if style.link else ""
        while True:
            keys = rng.sample(style.keys, self.pairs)
            values = {key: rng.choice(style.values) for key in keys}
            asked: list[str] = []
            while len(asked) < self.queries:
                asked.extend(rng.sample(keys, self.pairs))
            listing = space.join(f"{key}{style.link}{space}{values[key]}{style.end}" for key in keys)
            spans = [Span(listing + style.divider)]
            for index, key in enumerate(asked[: self.queries]):
                lead = space if index or style.divider.strip() else ""
                spans.append(Span(f"{lead}{key}{style.link}"))
                spans.append(Span(space + values[key], is_answer=True))
                if style.end:
                    spans.append(Span(style.end))
            yield spans
