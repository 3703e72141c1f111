"""Questions from generators: recall, repetition and arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jetlit_data.generators import GENERATORS, Generator
from jetlit_data.options import build
from transformers import PreTrainedTokenizerBase

from jetlit.tasks.base import Task, register_task, summarize_answers
from jetlit.tasks.batches import encode_row, make_batches
from jetlit.values import Count


@dataclass(frozen=True)
class GeneratedTask:
    """Questions about `documents` documents of a generator, many about each. They never occur in training."""

    generator: Generator
    documents: int
    seed: int

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows = []
        for number, spans in enumerate(islice(self.generator.documents(self.seed, "task"), self.documents)):
            rows.append(encode_row(tokenizer, [(span.text, span.is_answer) for span in spans], number))
        return Task(name, "accuracy", float(self.generator.chance), make_batches(rows), summarize_answers)


def _kind(name: str, generator: Callable[..., Generator]) -> Callable[..., GeneratedTask]:
    """Return the kind of task of a generator: it takes the generator's settings, `documents` and `seed`."""

    def settings(documents: Count = 32, seed: int = 0, **options: Any) -> GeneratedTask:
        return GeneratedTask(build(generator, f'Generator "{name}"', options), documents, seed)

    return settings


for _name, _generator in GENERATORS.items():
    register_task(_name)(_kind(_name, _generator))
