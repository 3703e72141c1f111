"""`jetlit eval`."""

from __future__ import annotations

import time
from typing import Any

from jetlit_data.tokenizer import load_tokenizer
from rich.console import Console
from rich.table import Table

from jetlit.cli.scoring import build_tasks, task_scores
from jetlit.errors import UserError
from jetlit.models.loading import load_model
from jetlit.pipeline.report.tables import evaluation_table
from jetlit.results import metric, write_result
from jetlit.search.candidates import Metrics
from jetlit.tasks.paper import paper_accuracy, paper_mean
from jetlit.tasks.suites import Suite, run_suite


def eval(
    model: str = "runs/quickstart/export",
    tasks: list[dict[str, Any]] | None = None,
    suite: str | None = None,
    limit: int | None = None,
    local_data: str | None = None,
    max_length: int = 4096,
    run_dir: str = "runs/quickstart",
    out_dir: str = "${run_dir}/eval",
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Scores a model on tasks, or on a suite of lm-evaluation-harness; writes result.json, which the report shows.

    Args:
        model: folder or hub name of a checkpoint or a teacher, with its tokenizer.
        tasks: see `jetlit.tasks.build_task`.
        suite: YAML file of a suite (configs/eval); needs the optional extra "eval".
        limit: questions of each of the suite's tasks at most.
        local_data: folder of the harness' own task files, for machines without a hub.
        max_length: of the suite's rows in tokens; longer contexts lose their beginning.
        run_dir: folder of the whole run.
        out_dir: where result.json goes; the run's report shows those in eval/ and the folders in it.
        device: "auto", "cpu" or "cuda".
        dtype: to compute in; by default the checkpoint's.
    """
    if (tasks is None) == (suite is None):
        raise UserError("Say what to score on: give either tasks or a suite.")
    begun = time.monotonic()
    named = None if suite is None else Suite.load(suite)
    loaded = load_model(model, dtype, device)
    if named is None:
        scores = task_scores(loaded, build_tasks(tasks or [], model))
    else:
        report = run_suite(loaded, load_tokenizer(model), named, limit, local_data, max_length=max_length)
        scores = suite_metrics(named.name, report)
    write_result(
        out_dir,
        stage="eval",
        config={
            "model": model,
            "tasks": tasks,
            "suite": None if named is None else named.name,
            "limit": limit,
            "local_data": local_data,
            "max_length": max_length,
            "dtype": str(loaded.lm_head.weight.dtype).removeprefix("torch."),
            "run_dir": run_dir,
            "out_dir": out_dir,
        },
        metrics=scores,
        decision=None,
        seed=None,
        seconds=time.monotonic() - begun,
    )
    header, rows = evaluation_table(scores)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def suite_metrics(suite: str, report: dict[str, dict[str, float]]) -> Metrics:
    """Returns a suite's results as metrics, the paper's figures beside each task's, and the mean over the tasks.

    Args:
        suite: its name.
        report: what `run_suite` returned.
    """
    mean = sum(found["value"] for found in report.values()) / len(report)
    metrics: Metrics = {}
    for task, found in {**report, "mean": {"value": mean}}.items():
        metrics |= {f"{task}/{name}": metric(value, "1") for name, value in found.items()}
        paper = paper_mean(suite) if task == "mean" else paper_accuracy(task)
        metrics |= {f"{task}/paper/{model}": metric(value, "1") for model, value in paper.items()}
    return metrics
