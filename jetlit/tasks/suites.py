"""Suites of lm-evaluation-harness tasks, as in configs/eval/."""

import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import PreTrainedTokenizerBase
from yaml import YAMLError

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM


@dataclass
class SuiteTask:
    """A task or group of the harness.

    Attributes:
        task: its name in the harness.
        num_fewshot: worked examples before each question.
        metric: the metric to report and its filter, such as "acc_norm,none".
    """

    task: str
    num_fewshot: int = 0
    metric: str = "acc,none"


@dataclass
class Suite:
    """Tasks that are reported together."""

    name: str = ""
    tasks: list[SuiteTask] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> "Suite":
        """Read a suite from YAML.

        Raises:
            UserError: there is no such file, it is not a suite, or it names no task.
        """
        try:
            loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.load(path)))
        except OSError as error:
            raise UserError(f"There is no suite {path} ({error.strerror}): give a file of configs/eval.") from error
        except (OmegaConfBaseException, YAMLError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path} is not a suite of tasks ({reason}): see configs/eval.") from error
        assert isinstance(loaded, cls)
        if not loaded.tasks:
            raise UserError(f"Suite {path} names no task: list some under tasks.")
        return loaded


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
        local_data: folder of task files (YAML) that replace the harness' own of the same name, so that tasks can read
            local files where the hub is out of reach.
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
    manager = task_manager(local_data)
    for task in suite.tasks:
        if task.task not in manager.all_tasks:
            raise UserError(f'lm-evaluation-harness knows no task "{task.task}": see lm_eval --tasks list.')
    # All tasks are loaded before the first is scored: what one lacks shows at once, not after hours.
    loaded = [_load(manager, task.task) for task in suite.tasks]
    options = {"limit": limit, "task_manager": manager, "bootstrap_iters": 1000, "log_samples": False}
    return {
        task.task: _report(task, simple_evaluate(harness, tasks=[ready], num_fewshot=task.num_fewshot, **options))
        for task, ready in zip(suite.tasks, loaded, strict=True)
    }


@cache
def task_manager(local_data: str | None) -> Any:
    """Return the harness' `TaskManager` of a folder of task files. Cached: it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    if local_data is not None and not Path(local_data).is_dir():
        raise UserError(f"There is no folder {local_data}: set local_data to the folder of your task files.")
    return TaskManager(include_path=local_data)


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
