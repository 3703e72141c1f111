"""Trains and measures one candidate of a selection, once: what is finished is never done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.models import Architecture
from jetlit.results import config_hash

Metrics = dict[str, dict[str, Any]]
"""Numbers by name, each {"value", "unit"} as in result.json."""

Train = Callable[[Path, Path], Metrics]
"""Trains the architecture in a file into a folder (outcome: `folder/model`), going on where it was interrupted."""

Measure = Callable[[Path], Metrics]
"""Measures the model in a folder: what it is judged by; task scores, parameters, state bytes."""

FINISHED_FILE = "candidate.json"


def evaluate_candidate(
    architecture: Architecture,
    folder: Path,
    train: Train,
    measure: Measure,
    settings: Mapping[str, Any],
    judged_by: str = "accuracy",
) -> Metrics:
    """Trains and measures a candidate, or reads what an earlier call found.

    `folder/candidate.json`, written last, says that the candidate is finished. An interrupted one goes on; one made
    under other settings is removed first.

    Args:
        architecture: what to train.
        folder: the candidate's own folder.
        train: trains it.
        measure: measures the outcome.
        settings: everything else that the outcome depends on, JSON values only; paths under its "run_dir" may move.
        judged_by: the metric that the search cannot do without.

    Returns:
        The metrics of training and measuring together.

    Raises:
        UserError: neither gave that metric.
    """
    key = config_hash({**settings, "architecture": asdict(architecture)})
    finished = folder / FINISHED_FILE
    begun = folder / "begun.json"
    if finished.exists() and read_json(finished)["key"] == key:
        return read_json(finished)["metrics"]
    if folder.exists() and not (begun.exists() and read_json(begun)["key"] == key):
        shutil.rmtree(folder)
    write_json(begun, {"key": key})
    architecture.save(folder / "architecture.json")
    metrics = train(folder / "architecture.json", folder) | measure(folder / "model")
    if metrics.get(judged_by, {}).get("value") is None:
        raise UserError(
            f"The candidate in {folder} has no {judged_by} to be judged by: give the search at least one task, "
            "or its fit a validation."
        )
    write_json(finished, {"key": key, "metrics": metrics})
    return metrics


def most_accurate(candidates: Mapping[str, Metrics]) -> str:
    """Returns the name of the best candidate; only numbers that a rerun repeats decide, never a measured time.

    The highest accuracy wins; equals are told apart by the lower held-out loss, then by the order given.
    """

    def rank(name: str) -> tuple[float, float]:
        loss = candidates[name].get("held_out_loss", {}).get("value")
        return -candidates[name]["accuracy"]["value"], float("inf") if loss is None else loss

    return min(candidates, key=rank)
