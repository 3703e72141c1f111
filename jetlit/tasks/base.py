"""What a task is: batches of answers, and how their scores become metrics."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jetlit.tasks.batches import TaskBatch


@dataclass(frozen=True)
class Scores:
    """Scores of all A answers of a task, batch after batch.

    Attributes:
        logprob: float32 [A], sum of the answer tokens' log-probabilities in nats.
        greedy: bool [A], whether every answer token is the most probable one.
        lengths: int64 [A]; for this and the next two see `TaskBatch`.
        group: int64 [A].
        correct: bool [A].
    """

    logprob: Tensor
    greedy: Tensor
    lengths: Tensor
    group: Tensor
    correct: Tensor


@dataclass(frozen=True)
class TaskScore:
    """A model's score on a task.

    Attributes:
        objective: what a search maximizes.
        metrics: name to value, "accuracy" among them. "NAME_stderr" is the standard error of NAME.
    """

    objective: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Task:
    """Questions under a name.

    Attributes:
        name: name of the task.
        objective_name: which metric the objective is ("accuracy"), or "-loss".
        chance: accuracy of blind guessing.
        batches: the questions.
        summary: turns the scores of all answers into a `TaskScore`.
    """

    name: str
    objective_name: str
    chance: float
    batches: list[TaskBatch]
    summary: Callable[[Scores], TaskScore]

    def summarize(self, logprob: Tensor, greedy: Tensor) -> TaskScore:
        """Sum up the scores [A] of all answers, batch after batch; see `Scores`."""
        gathered = {
            name: torch.cat([getattr(batch, name) for batch in self.batches]).cpu()
            for name in ("lengths", "group", "correct")
        }
        return self.summary(Scores(logprob=logprob.float().cpu(), greedy=greedy.cpu(), **gathered))

    @property
    def tokens(self) -> int:
        """Number of tokens that a model reads, padding included."""
        return sum(batch.input_ids.numel() for batch in self.batches)


def summarize_answers(scores: Scores) -> TaskScore:
    """Return the accuracy of greedy answers, and the loss in nats per answer token. The objective is the accuracy.

    Answers of a document share its context, so the samples are the documents' means.
    """
    documents = [scores.group == group for group in scores.group.unique()]
    token_loss = -scores.logprob.double() / scores.lengths
    metrics = means_with_errors(
        accuracy=(float(scores.greedy[own].float().mean()) for own in documents),
        loss=(float(token_loss[own].mean()) for own in documents),
    )
    return TaskScore(metrics["accuracy"], metrics | {"answers": float(len(scores.group))})


def summarize_choices(scores: Scores) -> TaskScore:
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


def means_with_errors(**samples: Iterable[float]) -> dict[str, float]:
    """Return the mean of each metric's independent samples, and its standard error as "NAME_stderr".

    The error of a single sample counts as 0.
    """
    metrics = {}
    for name, values in samples.items():
        numbers = torch.tensor(list(values), dtype=torch.float64)
        metrics[name] = float(numbers.mean())
        metrics[f"{name}_stderr"] = float(numbers.std() / math.sqrt(len(numbers))) if len(numbers) > 1 else 0.0
    return metrics
