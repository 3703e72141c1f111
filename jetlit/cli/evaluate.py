"""`jetlit eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jetlit.cli.scoring import build_tasks, load_model, task_scores
from jetlit.errors import UserError
from jetlit.files import write_json
from jetlit.models.export import load_tokenizer
from jetlit.results import metric
from jetlit.search.candidates import Metrics
from jetlit.tasks.suites import Suite, run_suite


def eval(
    model: str = "runs/quickstart/export",
    tasks: list[dict[str, Any]] | None = None,
    suite: str | None = None,
    limit: int | None = None,
    local_data: str | None = None,
    out: str | None = None,
    run_dir: str = "runs/quickstart",
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Scores a model on tasks, or on a suite of lm-evaluation-harness.

    Args:
        model: folder of the model and its tokenizer.
        tasks: see `jetlit.tasks.build_task`.
        suite: YAML file of a suite (configs/eval); needs the optional extra "eval".
        limit: questions of each of the suite's tasks at most.
        local_data: folder of the harness' own task files, for machines without a hub.
        out: JSON file to write the scores to as well.
        run_dir: folder of the whole run, for configs that name it.
        device: "auto", "cpu" or "cuda".
        dtype: to compute in; by default the checkpoint's.
    """
    if (tasks is None) == (suite is None):
        raise UserError("Say what to score on: give either tasks or a suite.")
    loaded = load_model(model, device, dtype)
    scores: Metrics = {}
    if tasks is not None:
        scores = task_scores(loaded, build_tasks(tasks, model))
    if suite is not None:
        report = run_suite(loaded, load_tokenizer(model), Suite.load(suite), limit, local_data)
        for task, found in report.items():
            scores |= {f"{task}/{name}": metric(value, "1") for name, value in found.items()}
    table = Table("metric", "value", "unit")
    for name, entry in scores.items():
        table.add_row(name, f"{entry['value']:.4g}", entry["unit"])
    Console().print(table)
    if out is not None:
        write_json(Path(out), scores)
