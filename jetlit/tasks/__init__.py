"""What a model is scored on: multiple choice, continuations, recall, arithmetic, exact answers."""

from jetlit.tasks import continuation, generated, questions  # noqa: F401 (they register their kinds)
from jetlit.tasks.base import (
    TASKS,
    Task,
    TaskScore,
    build_task,
    build_tasks,
    evaluate_task,
    guessed_tasks,
    mean_error,
    register_task,
    score_tasks,
    summarize_answers,
    summarize_choices,
)
from jetlit.tasks.batches import Row, TaskBatch, answer_scores, encode_row, make_batches

__all__ = [
    "TASKS",
    "Row",
    "Task",
    "TaskBatch",
    "TaskScore",
    "answer_scores",
    "build_task",
    "build_tasks",
    "encode_row",
    "evaluate_task",
    "guessed_tasks",
    "make_batches",
    "mean_error",
    "register_task",
    "score_tasks",
    "summarize_answers",
    "summarize_choices",
]
