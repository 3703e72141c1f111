"""Multiple choice: from a JSONL file, or which continuation of held-out text is the real one."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jetlit_data.corpus import read_corpus
from jetlit_data.reading import open_split
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Row, Scores, Task, TaskScore, make_batches, mean_with_error
from jetlit.tasks.text import encode_answer, encode_prompt, read_records


@dataclass(frozen=True)
class MultipleChoice:
    """Questions of a JSONL file with lines {"prompt": …, "choices": […], "answer": index of the right one}.

    Attributes:
        path: the file, or the name of one that comes with the package.
        limit: at most this many questions, from the first.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The task."""
        rows: list[Row] = []
        choice_counts = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, choices, right = _checked(record, where)
            choice_counts.append(len(choices))
            context = encode_prompt(tokenizer, prompt)
            for index, choice in enumerate(choices):
                pieces = [(context, False), (encode_answer(tokenizer, choice, prompt), True)]
                rows.append(Row(pieces, number, correct=index == right))
        batches = make_batches(rows)
        return Task(name, "-loss", sum(1 / count for count in choice_counts) / len(choice_counts), batches, summarise)


@dataclass(frozen=True)
class Continuation:
    """Held-out text of a prepared corpus: its real continuation against three from elsewhere in it.

    Attributes:
        corpus: folder of the corpus.
        questions: how many.
        context: tokens before the continuation.
        length: tokens of each continuation.
        seed: of the choice of places and of the wrong continuations.
    """

    corpus: str
    questions: int = 64
    context: int = 64
    length: int = 16
    seed: int = 0

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The task; the tokenizer must be the corpus' own, whose tokens are used as they stand."""
        places = self._places()
        rng = random.Random(self.seed)
        rows = []
        for number, own in enumerate(rng.sample(range(len(places)), self.questions)):
            others = rng.sample([place for place in range(len(places)) if place != own], 3)
            for place in (own, *others):
                continuation = places[place][self.context :]
                rows.append(Row([(places[own][: self.context], False), (continuation, True)], number, place == own))
        return Task(name, "-loss", 0.25, make_batches(rows), summarise)

    def _places(self) -> list[list[int]]:
        """Stretches of held-out text, context and continuation together, without the end of a document inside."""
        eos = read_corpus(self.corpus).eos_token_id
        blocks = open_split(self.corpus, "val", self.context + self.length, shuffle=False)
        needed = max(self.questions, 4)
        places: list[list[int]] = []
        seen: set[tuple[int, ...]] = set()  # repeated text would give a question two right answers
        for index in _shuffled(len(blocks), self.seed):
            tokens = blocks[index]["input_ids"].tolist()
            continuation = tuple(tokens[self.context :])
            if eos not in tokens and continuation not in seen:
                seen.add(continuation)
                places.append(tokens)
            if len(places) == 4 * needed:
                break
        if len(places) < needed:
            raise UserError(
                f"The held-out text of {self.corpus} has room for {len(places)} questions of "
                f"{self.context} + {self.length} tokens, not {needed}: ask fewer or shorter ones, or prepare more text."
            )
        return places


def _shuffled(count: int, seed: int) -> Iterator[int]:
    order = list(range(count))
    random.Random(f"places/{seed}").shuffle(order)
    return iter(order)


def _checked(record: dict, where: str) -> tuple[str, list[str], int]:
    prompt, choices, right = record.get("prompt"), record.get("choices"), record.get("answer")
    if not isinstance(prompt, str):
        raise UserError(f'{where} needs a text under "prompt".')
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f'{where} needs a list of two texts or more under "choices".')
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise UserError(f'{where} needs under "answer" the index of the right choice, 0 to {len(choices) - 1}.')
    return prompt, choices, right


def summarise(scores: Scores) -> TaskScore:
    """The objective of the paper's placement search for multiple choice: −loss on the right answer (section 2.2).

    Metrics: loss in nats per token of the right answer; accuracy, where the model picks the choice with the highest
    log-probability; accuracy_norm, the same per token of the choice.
    """
    per_token = scores.logprob.double() / scores.lengths
    questions = [torch.nonzero(scores.group == group)[:, 0] for group in scores.group.unique()]
    loss, loss_error = mean_with_error((-per_token[scores.correct]).tolist())
    accuracy, accuracy_error = mean_with_error(_picks_right(scores.logprob, own, scores.correct) for own in questions)
    normed, normed_error = mean_with_error(_picks_right(per_token, own, scores.correct) for own in questions)
    return TaskScore(
        -loss,
        {
            "loss": loss,
            "loss_stderr": loss_error,
            "accuracy": accuracy,
            "accuracy_stderr": accuracy_error,
            "accuracy_norm": normed,
            "accuracy_norm_stderr": normed_error,
            "questions": float(len(questions)),
        },
    )


def _picks_right(score: torch.Tensor, own: torch.Tensor, correct: torch.Tensor) -> float:
    return float(correct[own[score[own].argmax()]])
