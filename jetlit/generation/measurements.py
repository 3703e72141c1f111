"""Measurements of this machine, kept under a hash of what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from jetlit.files import check_folder
from jetlit.once import once
from jetlit.results import Result, config_hash, hardware, versions


def shapes(config: PretrainedConfig) -> dict[str, Any]:
    """Return what decides a model's speed: its configuration, wherever it was read from."""
    return config.to_dict() | {"_name_or_path": None}


def cached_measurement(
    folder: str | Path, config: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Measure, or return what was measured before for the same configuration, machine and library versions.

    Args:
        folder: where measurements are kept, each in a folder of its own.
        config: what is measured and how (sizes, batch, context, dtype), JSON values only.
        measure: takes the measurement.
    """
    key = {"config": dict(config), "hardware": hardware(), "versions": versions()}

    def result() -> Result:
        return Result("measurement", key, measure())

    check_folder(folder)
    return dict(once(Path(folder) / config_hash(key)[:16], key, result).metrics)
