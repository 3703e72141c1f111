"""A run of PostNAS: stages in order, finished ones skipped, changed ones redone with all that depend on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jetlit.files import check_folder, claim_folder, existing_paths, read_json
from jetlit.once import UNREAD, once
from jetlit.pipeline.command_configs import PostnasConfig, ReportConfig
from jetlit.pipeline.configs import load_config, merge_configs
from jetlit.pipeline.fit import FitConfig, resolved_config
from jetlit.pipeline.lock import run_lock
from jetlit.pipeline.report.report import report
from jetlit.pipeline.stages import PlannedStage, plan
from jetlit.results import Result, config_hash


def postnas(config: PostnasConfig, say: Callable[[str], None] = print) -> dict[str, Result]:
    """Bring every stage up to date.

    Args:
        config: stages and run folder.
        say: prints a line.

    Returns:
        The result of each stage.

    Raises:
        UserError: the stages make no run, one failed, or a folder holds files that no stage made.
    """
    planned = plan(config.stages, config.pretrained, config.teacher, config.architecture)
    folder = Path(config.run_dir)
    hashes: dict[str, str] = {}
    results: dict[str, Result] = {}
    begun = time.monotonic()
    # All configs first: a mistake in a later one shows before anything is trained.
    prepared = [_prepare(stage, config) for stage in planned]
    files = [] if config.report_config is None else [config.report_config]
    report_config = load_config(ReportConfig, merge_configs(files, {"run_dir": str(folder)}), "report")
    architecture = None if config.architecture is None else read_json(config.architecture)
    check_folder(folder, *existing_paths([config.teacher, config.architecture], words=True))
    claim_folder(folder)
    with run_lock(folder):
        for number, (stage, (values, run)) in enumerate(zip(planned, prepared, strict=True), 1):
            name, made, artifacts = stage.stage.name, stage.stage.made, stage.stage.artifacts
            title = f"[{number}/{len(planned)}] {name}: "
            key: dict[str, Any] = {"config": values, "needs": {need: hashes[need] for need in stage.needs}}
            if "architecture" in stage.given:
                key["architecture"] = architecture
            key["run_dir"] = str(folder)  # paths below it count relative to it, so that a run may be moved
            hashes[name] = config_hash(key)
            stage_begun, states = time.monotonic(), []  # type: ignore[var-annotated]

            def say_state(state: str, title: str = title, states: list[str] = states) -> None:
                states.append(state)
                say(title + state)

            paths = existing_paths(values, *UNREAD)
            inputs = [path for path in paths if not Path(path).is_relative_to(folder / name)]
            results[name] = once(folder / name, key, run, say_state, inputs=inputs, made=made, artifacts=artifacts)
            if not states[0].startswith("finished"):
                now = time.monotonic()
                say(f"{title}done in {_duration(now - stage_begun)}, {_duration(now - begun)} in all")
        report(report_config)
    return results


def _prepare(planned: PlannedStage, config: PostnasConfig) -> tuple[dict[str, Any], Callable[[], Result]]:
    """Return all that the stage's result depends on, and the stage's work."""
    stage, files, folder = planned.stage, config.stages[planned.stage.name], Path(config.run_dir)
    paths = {
        str(folder / old): new if new in planned.given.values() else str(folder / new)
        for old, new in planned.replaced.items()
    }
    if stage.config is FitConfig:
        overrides: dict[str, Any] = {"run_dir": str(folder), "stage": stage.name, "ckpt_path": "last"}
        if config.seed is not None:
            overrides["seed_everything"] = config.seed
        if paths:
            overrides |= _replacements(resolved_config(FitConfig(files, overrides)), paths)
        fit_config = FitConfig(files, overrides)
        return resolved_config(fit_config), partial(stage.run, fit_config)
    overrides = {"run_dir": str(folder), "out_dir": str(folder / stage.name)}
    if config.seed is not None:
        overrides["seed"] = config.seed
    loaded: Any = load_config(stage.config, merge_configs(files, overrides), stage.name)
    named = {name: paths[value] for name, value in vars(loaded).items() if isinstance(value, str) and value in paths}
    loaded = replace(loaded, **named)
    moved = _replacements(loaded.values().get("fit_configs", {}), paths) if paths else {}
    if moved:
        loaded = replace(loaded, fit_overrides={**moved, **(loaded.fit_overrides or {})})
    return loaded.values(), partial(stage.run, loaded)


def _replacements(values: Mapping[str, Any], paths: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """Return, by dotted name, the new value of each value that is a path to be replaced."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _replacements(value, paths, f"{prefix}{name}.")
        elif isinstance(value, str) and value in paths:
            found[prefix + name] = paths[value]
    return found


def _duration(seconds: float) -> str:
    """Return a time as people say it: 8.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
