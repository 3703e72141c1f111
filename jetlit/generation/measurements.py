"""Hardware measurements kept under a hash of what they depend on: configuration, device and versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from jetlit.files import read_json, write_json
from jetlit.results import config_hash, hardware, versions


def shapes(config: PretrainedConfig) -> dict[str, Any]:
    """What of a model decides its speed: its configuration, wherever it was read from."""
    return config.to_dict() | {"_name_or_path": None}


def cached_measurement(
    folder: str | Path, config: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Measures, or returns what was measured before for the same configuration, machine and library versions.

    Args:
        folder: where measurements are kept, one JSON file each.
        config: what is measured and how (sizes, batch, context, type), JSON values only.
        measure: takes the measurement.

    Returns:
        What `measure` returned, now or then.
    """
    key = {"config": dict(config), "hardware": hardware(), "versions": versions()}
    path = Path(folder) / f"{config_hash(key)[:16]}.json"
    if path.exists():
        return read_json(path)["measured"]
    measured = measure()
    write_json(path, key | {"measured": measured})
    return measured
