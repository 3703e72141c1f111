"""What a task is: batches of answers, and how their scores become metrics."""

import math
from collections.abc import Callable, Iterable
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
        lengths: int64 [A], as `group` and `correct` see `TaskBatch`.
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
    """Something that a model is scored on.

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
        """Sum up the scores of all answers.

        Args:
            logprob: [A], answers of all batches in order.
            greedy: bool [A], likewise.
        """
        gathered = {
            name: torch.cat([getattr(batch, name) for batch in self.batches]).cpu()
            for name in ("lengths", "group", "correct")
        }
        return self.summary(Scores(logprob=logprob.float().cpu(), greedy=greedy.cpu(), **gathered))

    @property
    def tokens(self) -> int:
        """Number of tokens that a model reads, padding included."""
        return sum(batch.input_ids.numel() for batch in self.batches)


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
