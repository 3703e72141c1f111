"""What a model is scored on: multiple choice, continuations, recall, arithmetic, questions of a file."""

from jetlit.tasks.base import Task, TaskBatch, TaskScore, answer_scores, evaluate_task
from jetlit.tasks.registry import TASK_KINDS, build_task, build_tasks
from jetlit.tasks.scoring import score_tasks

__all__ = ["TASK_KINDS", "Task", "TaskBatch", "TaskScore", "answer_scores", "build_task", "build_tasks", "evaluate_task", "score_tasks"]
