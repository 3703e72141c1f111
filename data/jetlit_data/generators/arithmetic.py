"""Small sums and differences, many to a document."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from jetlit.errors import UserError
from jetlit_data.generators.base import Purpose, Span, generator_rng

_HELD_OUT_SHARE = 8  # one problem in eight is never trained on


@dataclass(frozen=True)
class Arithmetic:
    """Problems such as "12+30=42;", `problems` to a document.

    One problem in eight, chosen by its spelling, never appears in training documents: tasks ask only for those.

    Attributes:
        largest: the largest operand.
        problems: problems to a document.
        operations: the operators used, of "+" and "-"; a difference is never negative.
    """

    largest: int = 30
    problems: int = 16
    operations: str = "+-"

    def __post_init__(self) -> None:
        if self.largest < 9 or self.problems < 1:
            raise UserError("Arithmetic needs operands up to 9 at least and 1 problem or more a document.")
        if not self.operations or set(self.operations) - {"+", "-"}:
            raise UserError(f'Arithmetic knows the operations "+" and "-", not "{self.operations}".')

    @property
    def chance(self) -> float:
        """Accuracy of guessing a result blindly, all results taken to be equally likely."""
        return 1 / (2 * self.largest + 1 if "+" in self.operations else self.largest + 1)

    def documents(self, seed: int, purpose: Purpose) -> Iterator[list[Span]]:
        """Endless documents of the given seed; those for tasks hold only problems kept out of training."""
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
    """Whether a problem ("12+30=") is kept out of training."""
    return zlib.crc32(problem.encode()) % _HELD_OUT_SHARE == 0
