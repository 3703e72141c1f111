"""Scores of a model on tasks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jetlit.tasks.base import Task, TaskScore
from jetlit.tasks.batches import TaskBatch, answer_scores


@torch.no_grad()
def evaluate_task(model: nn.Module, task: Task) -> TaskScore:
    """Score a model on a task. Logits are computed at answer tokens alone.

    Args:
        model: a `JetNemotronForCausalLM`, or a `SuperNetwork` (its active path). It is evaluated in evaluation mode
            and left in the mode it had.
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


def score_batch(model: Any, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities [A] and greedy matches [A] of a batch's answers, see `answer_scores`."""
    hidden = model.model(batch.input_ids, use_cache=False).last_hidden_state
    return answer_scores(model.lm_head(batch.gather(hidden)), batch)


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
