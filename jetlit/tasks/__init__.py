"""What a model is scored on: multiple choice, continuations, recall, arithmetic, exact answers."""

from jetlit.tasks import continuation, generated, questions  # noqa: F401 (they register their kinds)
from jetlit.tasks.base import Task, TaskScore, summarize_answers, summarize_choices
from jetlit.tasks.batches import Row, TaskBatch, answer_scores, make_batches
from jetlit.tasks.registry import TASKS, build_task, build_tasks, register_task
from jetlit.tasks.scoring import evaluate_task, score_tasks

__all__ = [
    "TASKS",
    "Row",
    "Task",
    "TaskBatch",
    "TaskScore",
    "answer_scores",
    "build_task",
    "build_tasks",
    "evaluate_task",
    "make_batches",
    "register_task",
    "score_tasks",
    "summarize_answers",
    "summarize_choices",
]
