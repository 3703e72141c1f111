"""Exact answers: questions of a JSONL file whose answer the model must predict token by token."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Scores, Task, TaskScore, means_with_errors
from jetlit.tasks.batches import Row, make_batches
from jetlit.tasks.registry import register_task
from jetlit.tasks.text import encode_answer, encode_prompt, read_records


@register_task("exact_answer")
@dataclass(frozen=True)
class ExactAnswer:
    """Questions of a JSONL file with lines {"prompt": ..., "answer": ...}.

    Attributes:
        path: the file, or the name of one that the package brings.
        limit: ask only the first `limit` questions.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, answer = record.get("prompt"), record.get("answer")
            if not isinstance(prompt, str) or not isinstance(answer, str):
                raise UserError(f'{where} needs a text under "prompt" and one under "answer".')
            pieces = [(encode_prompt(tokenizer, prompt), False), (encode_answer(tokenizer, answer, prompt), True)]
            rows.append(Row(pieces, number))
        return Task(name, "accuracy", 0.0, make_batches(rows), summarize)


def summarize(scores: Scores) -> TaskScore:
    """Return the accuracy of greedy answers, and the loss in nats per answer token.

    Answers of a document share its context, so the samples are the documents' means.
    """
    documents = [scores.group == group for group in scores.group.unique()]
    token_loss = -scores.logprob.double() / scores.lengths
    metrics = means_with_errors(
        accuracy=(float(scores.greedy[own].float().mean()) for own in documents),
        loss=(float(token_loss[own].mean()) for own in documents),
    )
    return TaskScore(metrics["accuracy"], metrics | {"answers": float(torch.numel(scores.group))})
