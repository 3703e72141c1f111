"""Tasks by name, from the plain mappings that stand in configuration files."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jetlit_data.sources import GENERATORS
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Task
from jetlit.tasks.exact_answer import ExactAnswer, GeneratedTask
from jetlit.tasks.multiple_choice import Continuation, MultipleChoice

TASK_KINDS = (*GENERATORS, "multiple_choice", "continuation", "exact_answer")
_FROM_FILES = {"multiple_choice": MultipleChoice, "continuation": Continuation, "exact_answer": ExactAnswer}


def build_task(spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Task:
    """Build a task.

    Args:
        spec: "kind", one of `TASK_KINDS`; optionally "name", by default the kind; and the kind's own settings:
            recall and arithmetic take documents, seed, and the settings of the generator (`jetlit_data.Recall`,
            `jetlit_data.Arithmetic`); the others see `MultipleChoice`, `Continuation` and `ExactAnswer`.
        tokenizer: the model's.

    Raises:
        UserError: the kind or a setting is unknown or wrong, or a file is missing.
    """
    settings = dict(spec)
    kind = settings.pop("kind", None)
    if kind not in TASK_KINDS:
        raise UserError(f'There is no kind of task "{kind}": set kind to one of {", ".join(TASK_KINDS)}.')
    name = settings.pop("name", kind)
    if kind in GENERATORS:
        own = {key: settings.pop(key) for key in ("documents", "seed") if key in settings}
        return GeneratedTask(kind, **own, options=settings).build(name, tokenizer)
    return _make(_FROM_FILES[kind], kind, settings).build(name, tokenizer)


def _make(task: Any, kind: str, settings: dict[str, Any]) -> Any:
    fields = dataclasses.fields(task)
    known = [field.name for field in fields]
    for key in settings:
        if key not in known:
            raise UserError(f'Task kind "{kind}" has no setting "{key}": it takes {", ".join(known)}.')
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in settings:
            raise UserError(f'Task kind "{kind}" needs the setting "{field.name}".')
    return task(**settings)


def build_tasks(specs: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Task]:
    """Build tasks of different names.

    Args:
        specs: one for each task, see `build_task`.
        tokenizer: the model's.

    Raises:
        UserError: there is no task, two have the same name, or one cannot be built.
    """
    if not specs:
        raise UserError("No task is named: list at least one under tasks, such as {kind: recall}.")
    tasks = [build_task(dict(spec), tokenizer) for spec in specs]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"Each task needs a name of its own, but the names are {', '.join(names)}: set name on them.")
    return tasks
