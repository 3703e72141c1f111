"""Tasks whose answer must be foretold token by token: recall, arithmetic and questions of a JSONL file."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jetlit_data.sources import build_generator
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Row, Scores, Task, TaskScore, make_batches, mean_with_error
from jetlit.tasks.text import encode_answer, encode_prompt, read_records


@dataclass(frozen=True)
class GeneratedTask:
    """Questions from the generator that makes the corpus of the same name; their seed never meets training's.

    Attributes:
        generator: "recall" or "arithmetic".
        documents: how many documents; each holds many questions.
        seed: of the documents.
        options: settings of the generator, as in the corpus.
    """

    generator: str
    documents: int = 32
    seed: int = 0
    options: dict[str, Any] | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The task."""
        generator = build_generator(self.generator, self.options or {})
        rows = []
        for number, spans in enumerate(islice(generator.documents(self.seed, "task"), self.documents)):
            pieces = [(encode_prompt(tokenizer, spans[0].text), False)]
            pieces += [(encode_answer(tokenizer, span.text), span.is_answer) for span in spans[1:]]
            rows.append(Row(pieces, number))
        return Task(name, "accuracy", float(generator.chance), make_batches(rows), summarise_exact)


@dataclass(frozen=True)
class ExactAnswer:
    """Questions of a JSONL file with lines {"prompt": …, "answer": …}.

    Attributes:
        path: the file, or the name of one that comes with the package.
        limit: at most this many questions, from the first.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """The task."""
        rows = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, answer = record.get("prompt"), record.get("answer")
            if not isinstance(prompt, str) or not isinstance(answer, str):
                raise UserError(f'{where} needs a text under "prompt" and one under "answer".')
            pieces = [(encode_prompt(tokenizer, prompt), False), (encode_answer(tokenizer, answer, prompt), True)]
            rows.append(Row(pieces, number))
        return Task(name, "accuracy", 0.0, make_batches(rows), summarise_exact)


def summarise_exact(scores: Scores) -> TaskScore:
    """Accuracy of greedy answers and loss in nats per answer token.

    Answers of one document share its context; standard errors are therefore those of the documents' means.
    """
    documents = [scores.group == group for group in scores.group.unique()]
    accuracy, accuracy_error = mean_with_error(float(scores.greedy[own].float().mean()) for own in documents)
    token_loss = -scores.logprob.double() / scores.lengths
    loss, loss_error = mean_with_error(float(token_loss[own].mean()) for own in documents)
    answers = torch.numel(scores.group)
    return TaskScore(
        accuracy,
        {
            "accuracy": accuracy,
            "accuracy_stderr": accuracy_error,
            "loss": loss,
            "loss_stderr": loss_error,
            "answers": float(answers),
        },
    )
