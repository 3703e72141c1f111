"""Continuations: which of four is the real continuation of held-out text."""

import random
from dataclasses import dataclass

from jetlit_data.corpus import corpus_digest, read_corpus
from jetlit_data.encoding import tokenizer_digest
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Task, register_task, summarize_choices
from jetlit.tasks.batches import Row, make_batches
from jetlit.values import Count


@register_task("continuation")
@dataclass(frozen=True)
class Continuation:
    """Held-out text of a prepared corpus: its real continuation, and three from elsewhere in the corpus.

    Attributes:
        corpus: folder of the corpus.
        questions: number of questions.
        context: tokens before the continuation.
        length: tokens of each continuation.
        seed: seed of the choice of places and of the wrong continuations.
    """

    corpus: str
    questions: Count = 64
    context: Count = 64
    length: Count = 16
    seed: int = 0

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task. The corpus' tokens are used as they are.

        Raises:
            UserError: the tokenizer is not the corpus' own, or the corpus has too little held-out text.
        """
        digest = corpus_digest(self.corpus, read_corpus(self.corpus))
        if digest not in (None, tokenizer_digest(tokenizer)):
            raise UserError(
                f"The corpus {self.corpus} of task {name} is in the tokens of another tokenizer than the model's: "
                "prepare it again with that of the model."
            )
        places = self._places()
        rng = random.Random(self.seed)
        rows = []
        for number, own in enumerate(rng.sample(range(len(places)), self.questions)):
            others = rng.sample([place for place in range(len(places)) if place != own], 3)
            for place in (own, *others):
                continuation = places[place][self.context :]
                rows.append(Row([(places[own][: self.context], False), (continuation, True)], number, place == own))
        return Task(name, "-loss", 0.25, make_batches(rows), summarize_choices)

    def _places(self) -> list[list[int]]:
        """Return stretches of held-out text, context and continuation, that hold no document's end."""
        from jetlit_data.reading import open_split  # litdata takes seconds to import

        eos = read_corpus(self.corpus).eos_token_id
        blocks = open_split(self.corpus, "val", self.context + self.length, shuffle=False)
        order = list(range(len(blocks)))
        random.Random(f"places/{self.seed}").shuffle(order)
        needed = max(self.questions, 4)
        # One for each continuation: repeated text would give a question two right answers.
        places: dict[tuple[int, ...], list[int]] = {}
        for index in order:
            tokens = blocks[index]["input_ids"].tolist()
            if eos not in tokens:
                places.setdefault(tuple(tokens[self.context :]), tokens)
            if len(places) == 4 * needed:
                break
        if len(places) < needed:
            raise UserError(
                f"The held-out text of {self.corpus} has room for {len(places)} questions of "
                f"{self.context} + {self.length} tokens, not {needed}: ask fewer or shorter ones, or prepare more text."
            )
        return list(places.values())
