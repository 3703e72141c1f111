"""Repetition: a random string, written over and over until the document is full.

Every symbol after the first round can be foretold by whoever finds its previous occurrence. Small models learn recall
several times sooner when some of these documents are mixed in: they call for the same induction heads, and nearly
every token of them teaches.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass

from jetlit.errors import UserError
from jetlit_data.generators.base import Purpose, Span, generator_rng

_SYMBOLS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Repetition:
    """Documents of one repeated random string.

    Attributes:
        length: symbols of a document (with the byte tokenizer: tokens, EOS not counted).
        shortest: symbols of the shortest string that is repeated.
        longest: symbols of the longest; at most half of `length`, so that each is seen twice.
    """

    length: int = 63
    shortest: int = 4
    longest: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest <= self.length // 2:
            raise UserError(
                f"Repetition repeats strings of {self.shortest} to {self.longest} symbols in {self.length}: "
                f"choose 1 <= shortest <= longest <= {self.length // 2}."
            )

    @property
    def chance(self) -> float:
        """Accuracy of guessing a symbol blindly."""
        return 1 / len(_SYMBOLS)

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Endless documents of the given seed; those for tasks differ from those for training."""
        rng = generator_rng("repetition", seed, purpose)
        while True:
            period = "".join(rng.choices(_SYMBOLS, k=rng.randint(self.shortest, self.longest)))
            rounds = -(-self.length // len(period))
            again = (period * rounds)[len(period) : self.length]
            yield [Span(period), *(Span(symbol, is_answer=True) for symbol in again)]
