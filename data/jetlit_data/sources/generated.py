"""Documents of generators as a source of text."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jetlit_data.generators import GENERATORS, Generator, text_of
from jetlit_data.options import build
from jetlit_data.sources.base import SOURCES


@dataclass(frozen=True)
class GeneratedSource:
    """Documents of a generator, for training."""

    generator: Generator

    def size(self) -> float:
        """Return infinity: they never end."""
        return math.inf

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the documents of a seed."""
        return (text_of(spans) for spans in self.generator.documents(seed, "train"))


def _kind(name: str, generator: Callable[..., Generator]) -> Callable[..., GeneratedSource]:
    """Return the source of a generator; its options are the generator's settings."""
    return lambda **options: GeneratedSource(build(generator, f'Source "{name}"', options))


for _name, _generator in GENERATORS.items():
    SOURCES.register(_name)(_kind(_name, _generator))
