"""result.json: what a stage decided, every number it measured with its unit, and what it ran on."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jetlit.errors import UserError
from jetlit.files import read_mapping, write_json

RESULT_FILE = "result.json"
_KEYS = ("stage", "hash", "config", "decision", "metrics", "versions", "hardware", "seed", "seconds", "date")
_PACKAGES = ("jetlit", "torch", "triton", "lightning", "transformers", "litdata", "jsonargparse", "fla-core")


@dataclass(frozen=True)
class Result:
    """What a stage returns; `result.json` is made of it.

    Attributes:
        stage: its name.
        config: the resolved config, JSON values only.
        metrics: name -> number; `unit_of` knows the unit of each.
        decision: what was decided (layer types, a chosen block, a model's folder), JSON values only.
        seed: the seed all of it rests on; None where nothing is drawn.
        seconds: wall-clock time, that before a resume included; None lets the caller measure it.
    """

    stage: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    decision: Any = None
    seed: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Result:
        """Return the result that the content of a result.json describes, of this or an earlier version."""
        metrics = {name: found["value"] for name, found in content["metrics"].items()}
        kept = {name: content[name] for name in ("stage", "config", "decision", "seed", "seconds")}
        return cls(metrics=metrics, **kept)


def write_result(folder: str | Path, result: Result, hash: str | None = None) -> Path:
    """Write `folder/result.json` atomically: its presence says that the stage is finished.

    Args:
        folder: the stage's folder.
        result: what the stage returned.
        hash: what the stage is recognized by; by default the hash of its config.

    Returns:
        The file's path.

    Raises:
        UserError: the file system refused the write.
        ValueError: config or decision holds what JSON cannot.
    """
    path = Path(folder) / RESULT_FILE
    content = {
        "stage": result.stage,
        "hash": hash or config_hash(result.config),
        "config": result.config,
        "decision": result.decision,
        "metrics": with_units(result.metrics),
        "versions": versions(),
        "hardware": hardware(),
        "seed": result.seed,
        "seconds": round(result.seconds or 0.0, 3),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(path, content)
    return path


def with_units(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each number as result.json holds it, `{"value", "unit"}`; NaN and infinities become null."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: {"value": finite(value), "unit": unit_of(name)} for name, value in metrics.items()}


def read_result(folder: str | Path) -> dict[str, Any] | None:
    """Return the content of the folder's result.json, or None where the stage has not finished.

    Raises:
        UserError: the file is damaged, or of another kind.
    """
    path = Path(folder) / RESULT_FILE
    if not path.exists():
        return None
    content = read_mapping(path, *_KEYS)
    metrics = content["metrics"]
    found = metrics.values() if isinstance(metrics, dict) else [None]
    if not all(isinstance(entry, dict) and "value" in entry for entry in found):
        raise UserError(f"{path} does not hold what its stage writes: delete it and run that again.")
    return content


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the config as canonical JSON.

    Paths under the config's own `run_dir` count relative to it, so that a run moved elsewhere keeps its hashes.
    """
    run_dir = config.get("run_dir")
    canonical = json.dumps(
        relative_to_run(config, None if run_dir is None else str(run_dir)), sort_keys=True, default=str
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def relative_to_run(value: Any, run_dir: str | None) -> Any:
    """Return a config whose paths under `run_dir` count from there."""
    if isinstance(value, Mapping):
        return {relative_to_run(str(key), run_dir): relative_to_run(item, run_dir) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [relative_to_run(item, run_dir) for item in value]
    if isinstance(value, str | Path) and run_dir and _is_under(str(value), run_dir):
        return "${run_dir}" + str(value)[len(run_dir) :]
    return value


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the machine: processor, cores, memory in bytes, and the names of its GPUs."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    # platform.processor() is empty on most Linux machines.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


# Unit by the last part of a metric's name, which may have a prefix: "val/loss", "gla/held_out_loss".
_UNITS = {
    "loss": "nats/token",
    "loss_stderr": "nats/token",
    "kl": "nats/token",
    "objective": "weighted sum",
    "feature": "relative squared error",
    "tokens": "tokens",
    "documents": "documents",
    "parameters": "parameters",
    "steps": "steps",
    "seconds": "s",
    "tokens_seen": "tokens",
    "candidates": "candidates",
    "state_size": "numbers a layer",
    "placement": "task's objective",
    "all_linear": "task's objective",
    "all_full": "task's objective",
    "questions": "questions",
}
_ENDINGS = {
    "tokens_per_s": "tokens/s",
    "bytes": "B",
    "_loss": "nats/token",
    "_kl": "nats/token",
    "_loss_stderr": "nats/token",
    "_parameters": "parameters",
    "_seconds": "s",
    "_tokens": "tokens",
}


def unit_of(name: str) -> str:
    """Return the unit of metric `name` ("val/loss"); "1" for ratios, accuracies, tasks' own objectives."""
    first, _, last = name.rpartition("/")
    if first.startswith(("layer_evaluations", "sliding_windows")):
        return "layers x batches"
    if last in _UNITS and not first.startswith("task"):
        return _UNITS[last]
    return next((unit for ending, unit in _ENDINGS.items() if last.endswith(ending)), "1")
