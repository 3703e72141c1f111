"""What a model is scored on: multiple choice, continuations, recall, arithmetic, exact answers."""

from jetlit.tasks import continuation, exact_answer, generated, multiple_choice  # noqa: F401 (they register themselves)
from jetlit.tasks.base import Scores, Task, TaskScore, means_with_errors
from jetlit.tasks.batches import Row, TaskBatch, answer_scores, make_batches
from jetlit.tasks.registry import TASKS, build_task, build_tasks, register_task
from jetlit.tasks.scoring import evaluate_task, score_tasks

__all__ = [
    "TASKS",
    "Row",
    "Scores",
    "Task",
    "TaskBatch",
    "TaskScore",
    "answer_scores",
    "build_task",
    "build_tasks",
    "evaluate_task",
    "make_batches",
    "means_with_errors",
    "register_task",
    "score_tasks",
]
