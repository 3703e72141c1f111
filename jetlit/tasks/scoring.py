"""Scores of a model on tasks."""

from collections.abc import Sequence

from torch import nn

from jetlit.tasks.base import Task, evaluate_task


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
