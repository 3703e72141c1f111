"""`jetlit eval`: a model's scores on tasks or on a suite of lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.models import load_model
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.search.selection import Metrics
from jetlit.tasks import build_tasks, score_tasks
from jetlit.tasks.paper import paper_accuracy, paper_mean
from jetlit.tasks.suites import Suite, check_local_data, run_suite
from jetlit.values import Count, Device, Dtype


@dataclass
class EvaluateConfig(StageConfig):
    """Score a model on tasks, or on a suite of lm-evaluation-harness; the run's report shows the result.

    Attributes:
        model: folder or hub name of a checkpoint or a teacher, with its tokenizer.
        tasks: see `jetlit.tasks.build_task`.
        suite: a suite by name (seed, general, mathematics, commonsense, retrieval, long_context) or by its YAML file;
            needs the optional extra "eval".
        limit: largest number of questions of each of the suite's tasks.
        local_data: folder of copies of the suite's data, or of the harness' own task files, for machines without a hub.
        max_length: tokens of the suite's rows; longer contexts lose their beginning.
        run_dir: folder of the whole run.
        out_dir: where result.json goes; the run's report shows those in eval/ and the folders in it.
        device: "auto", "cpu" or "cuda".
        dtype: dtype to compute in; by default the checkpoint's.
    """

    model: str = "runs/quickstart/export"
    tasks: list[dict[str, Any]] | None = None
    suite: str | None = None
    limit: Count | None = None
    local_data: str | None = None
    max_length: Count = 4096
    run_dir: str = "runs/quickstart"
    out_dir: str = "${run_dir}/eval"
    device: Device = "auto"
    dtype: Dtype | None = None


def evaluate(config: EvaluateConfig) -> Result:
    """Score the model.

    Raises:
        UserError: there are neither tasks nor a suite, or both.
    """
    if (config.tasks is None) == (config.suite is None):
        raise UserError("Say what to score on: give either tasks or a suite.")
    check_local_data(config.local_data)
    suite = None if config.suite is None else Suite.load(config.suite)
    model = load_model(config.model, config.dtype, config.device)
    tokenizer = load_tokenizer(config.model)
    if suite is None:
        metrics = score_tasks(model, build_tasks(config.tasks or [], tokenizer))
    else:
        found = run_suite(model, tokenizer, suite, config.limit, config.local_data, max_length=config.max_length)
        metrics = suite_metrics(suite.name, found)
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    values = config.values() | {"suite": None if suite is None else suite.name, "dtype": dtype}
    return Result("eval", values, metrics)


def suite_metrics(suite: str, report: dict[str, dict[str, float]]) -> Metrics:
    """Return a suite's results as metrics: each task's, the mean over the tasks, and the paper's figures for both.

    Args:
        suite: its name.
        report: what `run_suite` returned.
    """
    mean = sum(found["value"] for found in report.values()) / len(report)
    metrics: Metrics = {}
    for task, found in {**report, "mean": {"value": mean}}.items():
        metrics |= {f"{task}/{name}": value for name, value in found.items()}
        paper = paper_mean(suite) if task == "mean" else paper_accuracy(task)
        metrics |= {f"{task}/paper/{model}": value for model, value in paper.items()}
    return metrics
