"""Arithmetic: small sums and differences, many in a document."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from jetlit.errors import UserError
from jetlit_data.generators.base import Purpose, Span, generator_rng

_HELD_OUT_SHARE = 8  # one problem in eight is never trained on


@dataclass(frozen=True)
class Arithmetic:
    """Documents of problems such as "12+30=42;".

    One problem in eight, chosen by a hash of its text, never occurs in training. Tasks ask for these alone.

    Attributes:
        largest: the largest operand.
        problems: problems of a document.
        operations: "+", "-" or both. No difference is negative.
    """

    largest: int = 30
    problems: int = 16
    operations: str = "+-"

    def __post_init__(self) -> None:
        if self.largest < 9 or self.problems < 1:
            raise UserError("Arithmetic needs largest to be at least 9 and problems at least 1.")
        if not self.operations or set(self.operations) - {"+", "-"}:
            raise UserError(f'Arithmetic knows the operations "+" and "-", not "{self.operations}".')

    @property
    def chance(self) -> float:
        """Accuracy of guessing a result blindly, as if all were equally likely."""
        return 1 / (2 * self.largest + 1 if "+" in self.operations else self.largest + 1)

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Yield documents without end; those for tasks hold only problems that training never shows."""
        rng = generator_rng("arithmetic", seed, purpose)
        while True:
            spans: list[Span] = []
            while len(spans) < 3 * self.problems:
                first, second = rng.randint(0, self.largest), rng.randint(0, self.largest)
                operation = rng.choice(self.operations)
                if operation == "-" and second > first:
                    first, second = second, first
                problem = f"{first}{operation}{second}="
                if is_held_out(problem) != (purpose == "task"):
                    continue
                answer = first + second if operation == "+" else first - second
                spans += [Span(problem), Span(str(answer), is_answer=True), Span(";")]
            yield spans


def is_held_out(problem: str) -> bool:
    """Return whether training never shows a problem ("12+30=")."""
    return zlib.crc32(problem.encode()) % _HELD_OUT_SHARE == 0
