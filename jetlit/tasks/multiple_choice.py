"""Multiple choice: questions of a JSONL file."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Scores, Task, TaskScore, means_with_errors
from jetlit.tasks.batches import Row, make_batches
from jetlit.tasks.registry import register_task
from jetlit.tasks.text import encode_answer, encode_prompt, read_records


@register_task("multiple_choice")
@dataclass(frozen=True)
class MultipleChoice:
    """Questions of a JSONL file with lines {"prompt": ..., "choices": [...], "answer": index of the right choice}.

    Attributes:
        path: the file, or the name of one that the package brings.
        limit: ask only the first `limit` questions.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows: list[Row] = []
        chances = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, choices, right = _checked(record, where)
            chances.append(1 / len(choices))
            context = encode_prompt(tokenizer, prompt)
            for index, choice in enumerate(choices):
                pieces = [(context, False), (encode_answer(tokenizer, choice, prompt), True)]
                rows.append(Row(pieces, number, correct=index == right))
        batches = make_batches(rows)
        return Task(name, "-loss", sum(chances) / len(chances), batches, summarize)


def _checked(record: dict, where: str) -> tuple[str, list[str], int]:
    prompt, choices, right = record.get("prompt"), record.get("choices"), record.get("answer")
    if not isinstance(prompt, str):
        raise UserError(f'{where} needs a text under "prompt".')
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f'{where} needs a list of two texts or more under "choices".')
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise UserError(f'{where} needs under "answer" the index of the right choice, 0 to {len(choices) - 1}.')
    return prompt, choices, right


def summarize(scores: Scores) -> TaskScore:
    """Return what the paper's placement search maximizes for multiple choice: -loss of the right answer (section 2.2).

    Metrics: loss, in nats per token of the right answer; accuracy, where the model picks the choice of the highest
    log-probability; accuracy_norm, the same per token of the choice.
    """
    per_token = scores.logprob.double() / scores.lengths
    questions = [torch.nonzero(scores.group == group)[:, 0] for group in scores.group.unique()]

    def picks_right(score: Tensor) -> Iterator[float]:
        return (float(scores.correct[own[score[own].argmax()]]) for own in questions)

    metrics = means_with_errors(
        loss=(-per_token[scores.correct]).tolist(),
        accuracy=picks_right(scores.logprob),
        accuracy_norm=picks_right(per_token),
    )
    return TaskScore(-metrics["loss"], metrics | {"questions": float(len(questions))})
