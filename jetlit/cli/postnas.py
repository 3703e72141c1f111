"""`jetlit postnas`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr
from transformers.utils.logging import disable_progress_bar

from jetlit.cli import parsing
from jetlit.cli.candidate_fit import CandidateFit
from jetlit.cli.data import data
from jetlit.cli.export import export
from jetlit.cli.fit import fit_config, run_fit
from jetlit.cli.report import report
from jetlit.cli.search_blocks import search_blocks
from jetlit.cli.search_hardware import search_hardware
from jetlit.cli.search_placement import search_placement
from jetlit.cli.teacher import teacher
from jetlit.pipeline.fit import resolved_config
from jetlit.pipeline.lock import run_lock
from jetlit.pipeline.postnas import FITS, check_stages, stage_needs
from jetlit.pipeline.stages import Run, Stage

_VERBS: dict[str, Callable[..., None]] = {
    "teacher": teacher,
    "data": data,
    "placement": search_placement,
    "blocks": search_blocks,
    "hardware": search_hardware,
    "export": export,
}


def postnas(
    stages: dict[str, list[Path_fr]],
    run_dir: str = "runs/quickstart",
    pretrained: bool = False,
    seed: int | None = None,
    report_config: Path_fr | None = None,
) -> None:
    """Runs all stages of PostNAS in order and writes the report.

    Finished stages are skipped, a changed config redoes what depends on it, an interrupted run goes on when the same
    command is given again and comes to the same decisions.

    Args:
        stages: the YAML files of each stage: data, teacher, supernet, placement, blocks, hardware, stage1, stage2,
            export; of several files later ones win.
        run_dir: folder of the whole run.
        pretrained: the teacher's files are those of `jetlit teacher`, not of a fit; it then comes before the data.
        seed: of every stage; None leaves the files' own.
        report_config: YAML file of the report.
    """
    check_stages(stages)
    # Bars of small models' files, dozens of them, would hide those of the stages.
    disable_progress_bar()
    folder = Path(run_dir)
    run_dir = str(folder)
    with run_lock(folder):
        needs = stage_needs(pretrained)
        Run(folder, [_stage(name, needs[name], stages[name], run_dir, seed, pretrained) for name in needs]).run()
        arguments = [] if report_config is None else ["--config", str(report_config.absolute)]
        parsing.call(report, [*arguments, "--run_dir", run_dir])
    print(
        f"\nReport: {folder / 'report.md'}\nNumbers: {folder / 'report.json'}\n"
        f"Figures: {folder / 'placement/heatmap.png'}, {folder / 'placement/curve.png'}, "
        f"{folder / 'blocks/table.png'}, {folder / 'hardware/pareto.png'}\n"
        f"TensorBoard: tensorboard --logdir {folder}\n"
        f"Exported model: {folder / 'export'}"
    )


def _stage(
    name: str, needs: tuple[str, ...], configs: list[Path_fr], run_dir: str, seed: int | None, pretrained: bool
) -> Stage:
    argv = [part for path in configs for part in ("--config", str(path.absolute))] + ["--run_dir", run_dir]
    if name in FITS and not (name == "teacher" and pretrained):
        return _fit_stage(name, needs, argv, seed)
    if seed is not None:
        argv += ["--seed", str(seed)]
    verb = _VERBS[name]

    def config() -> dict[str, Any]:
        return parsing.resolved_arguments(verb, argv) | _candidates_config(verb, argv)

    return Stage(name, needs, config, lambda hash: parsing.call(verb, [*argv, "--hash", hash]))


def _fit_stage(name: str, needs: tuple[str, ...], argv: list[str], seed: int | None) -> Stage:
    argv = ["fit", *argv, "--stage", name]
    if seed is not None:
        argv += ["--seed_everything", str(seed)]

    def run(hash: str) -> None:
        run_fit([*argv, "--ckpt_path", "last", "--manifest.hash", hash])

    return Stage(name, needs, lambda: resolved_config(fit_config(argv[1:])), run)


def _candidates_config(verb: Callable[..., None], argv: list[str]) -> dict[str, Any]:
    """What a search's candidates are trained with, in place of the names of the files that say it."""
    arguments = parsing.parse_arguments(verb, argv)
    if "fit_configs" not in arguments:
        return {}
    names = ("run_dir", "batch", "context", "seed")
    fit = CandidateFit(
        configs=arguments["fit_configs"],
        overrides=arguments["fit_overrides"] or {},
        **{name: arguments[name] for name in names},
    )
    return {"fit_configs": fit.settings()}
