"""The table of kinds of task, and tasks built from configuration files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jetlit_data.options import build
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.registry import Registry
from jetlit.tasks.base import Task

T = TypeVar("T")

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
    settings = dict(spec)
    kind = settings.pop("kind", None)
    name = settings.pop("name", kind)
    return build(TASKS.get_or_refuse(kind), f'Task kind "{kind}"', settings).build(name, tokenizer)


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
    tasks = [build_task(spec, tokenizer) for spec in specs]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"Each task needs a name of its own, but the names are {', '.join(names)}: set name on them.")
    return tasks
