"""What a task is, the open table of kinds of task, and a model's scores."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jetlit_data.options import build
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.registry import Registry
from jetlit.tasks.batches import TaskBatch, score_batch

T = TypeVar("T")


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


def summarize_answers(scores: Scores) -> TaskScore:
    """Return the accuracy of greedy answers, and the loss in nats per answer token. The objective is the accuracy.

    Answers of a document share its context, so the samples are the documents' means.
    """
    documents = [scores.group == group for group in scores.group.unique()]
    token_loss = -scores.logprob.double() / scores.lengths
    metrics = _means_with_errors(
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

    metrics = _means_with_errors(
        loss=(-per_token[scores.correct]).tolist(),
        accuracy=picks_right(scores.logprob),
        accuracy_norm=picks_right(per_token),
    )
    return TaskScore(-metrics["loss"], metrics | {"questions": float(len(questions))})


def _means_with_errors(**samples: Iterable[float]) -> dict[str, float]:
    """Return the mean of each metric's independent samples, and its standard error, 0 for a single sample."""
    metrics = {}
    for name, values in samples.items():
        numbers = torch.tensor(list(values), dtype=torch.float64)
        metrics[name] = float(numbers.mean())
        metrics[f"{name}_stderr"] = float(numbers.std() / math.sqrt(len(numbers))) if len(numbers) > 1 else 0.0
    return metrics


TASKS: Registry[Any] = Registry("kind of task", "jetlit.tasks")


def register_task(kind: str) -> Callable[[T], T]:
    """Return a decorator that makes a dataclass of settings the kind of task `kind`.

    The class has a method `build(name, tokenizer) -> Task`. Its fields are the keys of the task in configuration
    files. Packages register theirs by the entry point group `jetlit.tasks`.
    """
    return TASKS.register(kind)


def build_task(spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Task:
    """Build a task.

    Args:
        spec: "kind", an entry of `TASKS`; "name", by default the kind; and the kind's own settings (docs/tasks.md).
        tokenizer: the model's.

    Raises:
        UserError: the kind or a setting is unknown or wrong, or a file is missing.
    """
    if not isinstance(spec, Mapping) or not all(isinstance(spec.get(key, ""), str) for key in ("kind", "name")):
        raise UserError(f"A task is a mapping with texts as kind and name, such as {{kind: recall}}, not {spec!r}.")
    settings = dict(spec)
    kind = settings.pop("kind", None)
    name = settings.pop("name", kind)
    return build(TASKS.get_or_refuse(kind), f'Task kind "{kind}"', settings).build(name, tokenizer)


def build_tasks(specs: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Task]:
    """Build at least one task, all of different names (else UserError); see `build_task`."""
    if not specs:
        raise UserError("No task is named: list at least one under tasks, such as {kind: recall}.")
    tasks = [build_task(spec, tokenizer) for spec in specs]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"Each task needs a name of its own, but the names are {', '.join(names)}: set name on them.")
    return tasks


@torch.no_grad()
def evaluate_task(model: nn.Module, task: Task) -> TaskScore:
    """Score a model on a task in evaluation mode; the mode it had is restored.

    Args:
        model: a `JetNemotronForCausalLM`, or a `SuperNetwork` (its active path).
        task: the task.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        scores = [score_batch(model, batch.to(device)) for batch in task.batches]
    finally:
        model.train(was_training)
    return task.summarize(*map(torch.cat, zip(*scores)))


def score_tasks(model: nn.Module, tasks: Sequence[Task]) -> dict[str, float]:
    """Score a model on tasks.

    Returns:
        Every metric as "TASK/METRIC", the accuracy of blind guessing as "TASK/chance", and "accuracy", the mean over
        the tasks.
    """
    scores: dict[str, float] = {}
    for task in tasks:
        scores |= {f"{task.name}/{name}": value for name, value in evaluate_task(model, task).metrics.items()}
        scores[f"{task.name}/chance"] = task.chance
    return scores | {"accuracy": sum(scores[f"{task.name}/accuracy"] for task in tasks) / len(tasks)}


def mean_error(scores: Mapping[str, float]) -> float:
    """Return the standard error of "accuracy", the mean over the tasks, in what `score_tasks` returned."""
    tasks = [name.removesuffix("/chance") for name in scores if name.endswith("/chance")]
    return math.hypot(*(scores.get(f"{task}/accuracy_stderr", 0.0) for task in tasks)) / len(tasks)


def guessed_tasks(scores: Mapping[str, float]) -> dict[str, str]:
    """Return the tasks on which a model is no better than chance, by name, each with a sentence that says so.

    That is an accuracy of at most two standard errors above that of blind guessing.

    Args:
        scores: what `score_tasks` returned.
    """
    found = {}
    for task in (name.removesuffix("/chance") for name in scores if name.endswith("/chance")):
        accuracy, chance = scores[f"{task}/accuracy"], scores[f"{task}/chance"]
        error = scores.get(f"{task}/accuracy_stderr", 0.0)
        if accuracy <= chance + 2 * error:
            found[task] = f"right in {accuracy:.1%} ± {error:.1%} of {task}, where guessing is right in {chance:.1%}"
    return found
