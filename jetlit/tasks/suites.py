"""Suites of lm-evaluation-harness tasks, as in configs/eval/."""

import random
import tempfile
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from jetlit_data.options import build
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.files import shipped_configs
from jetlit.models import JetNemotronForCausalLM
from jetlit.tasks.local_data import leaves, write_task_files
from jetlit.values import NonNegativeInt


@dataclass
class SuiteTask:
    """A task or group of the harness.

    Attributes:
        task: its name in the harness.
        num_fewshot: worked examples before each question.
        metric: the metric to report and its filter, such as "acc_norm,none".
    """

    task: str
    num_fewshot: NonNegativeInt = 0
    metric: str = "acc,none"


@dataclass
class Suite:
    """Tasks that are reported together."""

    name: str = ""
    tasks: list[SuiteTask] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> "Suite":
        """Read a suite from YAML.

        Args:
            path: the file, or the name of a suite that jetlit brings, such as "seed".

        Raises:
            UserError: there is no such file, it is not a suite, or it names no task.
        """
        path = _find(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            tasks = content.get("tasks") if isinstance(content, dict) else None
            if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
                raise UserError("tasks is not a list of mappings such as {task: piqa}")
            loaded = [build(SuiteTask, f"Task {number}", task) for number, task in enumerate(tasks, start=1)]
            suite = build(cls, "A suite", content | {"tasks": loaded})
        except OSError as error:
            raise UserError(f"The suite {path} cannot be read ({error.strerror}): correct its path.") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split()).removesuffix(".")
            raise UserError(f"{path} is not a suite of tasks ({reason}): see configs/eval.") from error
        if not suite.tasks:
            raise UserError(f"Suite {path} names no task: list some under tasks.")
        return suite


def _find(path: str | Path) -> Path:
    """Return the file of a suite. Raises UserError if there is none."""
    shipped = {file.stem: file for file in sorted((shipped_configs() / "eval").glob("*.yaml"))}
    file = Path(path).expanduser()
    if not file.is_file() and str(path) in shipped:
        return shipped[str(path)]
    if not file.exists():
        raise UserError(f"There is no suite {path}: give a YAML file, or one of {', '.join(shipped)}.")
    return file


def run_suite(
    model: JetNemotronForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    limit: int | None = None,
    local_data: str | None = None,
    max_length: int = 4096,
) -> dict[str, dict[str, float]]:
    """Score a model on a suite with lm-evaluation-harness.

    Args:
        model: the model, on its device.
        tokenizer: the model's.
        suite: the tasks.
        limit: largest number of questions of each task.
        local_data: folder of copies of the hub's data (docs/tasks.md), of task files (YAML) that replace the harness'
            own of the same name, or of both, for machines without a hub.
        max_length: tokens of the longest row. Longer contexts lose their beginning.

    Returns:
        For each task "value" (of its metric), "stderr" (NaN if the harness gives none), "num_fewshot" and "questions".

    Raises:
        UserError: the harness or a package that a task needs is not installed (reported before anything is scored),
            the harness has no such task, or the task no such metric.
    """
    try:
        from lm_eval import simple_evaluate

        from jetlit.tasks.lm_eval import HarnessModel
    except ImportError:
        raise UserError("Suites need lm-evaluation-harness: pip install 'jetlit[eval]'.") from None
    harness = HarnessModel(model, tokenizer, max_length)
    with tempfile.TemporaryDirectory() as written:
        manager, without_examples = _manager(local_data, Path(written), [task.task for task in suite.tasks])
        for task in suite.tasks:
            if task.task not in manager.task_index:
                raise UserError(f'lm-evaluation-harness knows no task "{task.task}": see lm_eval --tasks list.')
            for leaf in leaves(manager.task_index, task.task) if task.num_fewshot else ():
                if without_examples.get(leaf) is not None:
                    raise UserError(
                        f"{leaf} takes its {task.num_fewshot} worked examples from the split "
                        f"{without_examples[leaf]}, which is not in {local_data}: add it there."
                    )
        # All tasks are loaded before the first is scored: what one lacks shows at once, not after hours.
        loaded = [_load(manager, task.task) for task in suite.tasks]
    options = {"limit": limit, "task_manager": manager, "bootstrap_iters": 1000, "log_samples": False}
    return {
        task.task: _report(task, simple_evaluate(harness, tasks=[ready], num_fewshot=task.num_fewshot, **options))
        for task, ready in zip(suite.tasks, loaded, strict=True)
    }


@cache
def task_manager() -> Any:
    """Return the harness' own `TaskManager`. Cached: it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def check_local_data(local_data: str | None) -> None:
    """Refuse a folder of local data that does not exist, with a UserError."""
    if local_data is not None and not Path(local_data).expanduser().is_dir():
        raise UserError(f"There is no folder {local_data}: set local_data to the folder of your data or task files.")


def _manager(local_data: str | None, out: Path, names: list[str]) -> tuple[Any, dict[str, str | None]]:
    """Return a manager of the harness' tasks and of local ones, and what `write_task_files` returns.

    Args:
        local_data: see `run_suite`.
        out: an empty folder for task files.
        names: what is going to be scored.
    """
    check_local_data(local_data)
    own = task_manager()
    if local_data is None:
        return own, {}
    from lm_eval.tasks import TaskManager

    folder = Path(local_data).expanduser()
    written = write_task_files(folder, out, own.task_index, names)
    # A manager for each: one that reads several folders replaces a tag by that of the last, and warns of each task.
    found = [TaskManager(include_defaults=False, include_path=str(path)).task_index for path in (out, folder)]
    _check_files(folder, {entry.yaml_path for entry in found[1].values()})
    if not any(found):
        raise UserError(
            f"{local_data} holds neither task files nor data of {', '.join(names)}: see docs/tasks.md for their places."
        )
    merged = dict(own.task_index)
    for name, entry in chain.from_iterable(index.items() for index in found):
        if entry.kind.name == "TAG" and name in merged:
            if merged[name].kind.name == "TAG":
                merged[name] = replace(entry, tags=entry.tags | merged[name].tags)
        else:
            merged[name] = entry
    manager = copy(own)
    manager._index = merged
    return manager, {name: split for name, split in written.items() if name not in found[1]}


def _check_files(folder: Path, read: set[Path | None]) -> None:
    """Refuse task files that are damaged: the harness passes over them, and would take its own from the hub."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in sorted(set(folder.glob("**/*.yaml")) - read):  # type: ignore[arg-type]
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:  # the harness' loader raises what YAML, files and its own checks do
            reason = " ".join(str(error).split())
            raise UserError(f"The task file {file} cannot be read ({reason}): correct or remove it.") from error


def _load(manager: Any, name: str) -> Any:
    random.seed(0)  # as the harness does before it loads: GPQA shuffles its choices there
    try:
        found = manager.load([name])
    except (ImportError, AssertionError) as error:  # minerva_math asserts the version of antlr4-python3-runtime
        reason = str(error.__cause__ or error.__context__ or "") or str(error).partition(". ")[0]
        raise UserError(
            f"Task {name} cannot be loaded ({reason}): install what it needs, which for configs/eval is "
            "pip install 'jetlit[eval]'."
        ) from error
    except Exception as error:  # of the hub, of its client, of HTTP, of each builder: they have no common class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Task {name} cannot be loaded ({reason}): check the connection to the hub, or give a folder with copies "
            "of its data by --local_data."
        ) from error
    return {**found["tasks"], **found["groups"]}[name]


def _report(task: SuiteTask, found: Any) -> dict[str, float]:
    results = found["results"][task.task]
    name, _, kind = task.metric.partition(",")
    if task.metric not in results:
        known = sorted(key for key in results if "," in key and "_stderr" not in key)
        raise UserError(f'Task {task.task} has no metric "{task.metric}": set metric to one of {"; ".join(known)}.')
    error = results.get(f"{name}_stderr,{kind}")
    return {
        "value": float(results[task.metric]),
        "stderr": float(error) if isinstance(error, (int, float)) else float("nan"),
        "num_fewshot": float(task.num_fewshot),
        "questions": float(sum(each["effective"] for each in found["n-samples"].values())),  # of all tasks of a group
    }
