"""`jetlit eval`."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jetlit.cli.scoring import build_tasks, load_model, task_scores
from jetlit.files import write_json


def eval(
    tasks: list[dict[str, Any]],
    model: str = "runs/quickstart/export",
    out: str | None = None,
    run_dir: str = "runs/quickstart",
    device: str = "auto",
    dtype: str | None = None,
) -> None:
    """Scores a model on tasks.

    Args:
        tasks: see `jetlit.tasks.build_task`.
        model: folder of the model and its tokenizer.
        out: JSON file to write the scores to as well.
        run_dir: folder of the whole run, for configs that name it.
        device: "auto", "cpu" or "cuda".
        dtype: to compute in; by default the checkpoint's.
    """
    scores = task_scores(load_model(model, device, dtype), build_tasks(tasks, model))
    table = Table("metric", "value", "unit")
    for name, found in scores.items():
        table.add_row(name, f"{found['value']:.4g}", found["unit"])
    Console().print(table)
    if out is not None:
        write_json(Path(out), scores)
