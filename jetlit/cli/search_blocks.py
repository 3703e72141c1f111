"""`jetlit search blocks`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from jetlit.cli.candidate_fit import CandidateFit
from jetlit.cli.scoring import build_tasks, measure_candidate
from jetlit.models import Architecture
from jetlit.pipeline.report.searches import block_figures, block_markdown, save_figures, save_table
from jetlit.results import metric, write_result
from jetlit.search.blocks import select_block

BlockConfigs = dict[str, dict[str, Any]]


def search_blocks(
    blocks: BlockConfigs,
    tasks: list[dict[str, Any]],
    fit_configs: list[Path_fr],
    run_dir: str = "runs/quickstart",
    placement: str = "${run_dir}/placement/placement.json",
    teacher: str = "${run_dir}/teacher/model",
    out_dir: str = "${run_dir}/blocks",
    fit_overrides: dict[str, Any] | None = None,
    batch: int = 8,
    context: int = 512,
    device: str = "auto",
    seed: int | None = None,
    hash: str | None = None,
) -> None:
    """Trains each candidate block with the same data and steps and takes the most accurate (paper, table 1).

    Writes architecture.json (the placement with the chosen block), table.png, table.md and result.json; every
    candidate has candidates/NAME.

    Args:
        blocks: configuration of each candidate by its registry name; {} inherits sizes from the attention.
        tasks: what candidates are scored on, see `jetlit.tasks.build_task`.
        fit_configs: YAML files that each candidate is trained with.
        run_dir: folder of the whole run.
        placement: file of the placement.
        teacher: folder of the teacher, whose tokenizer the tasks use.
        out_dir: where the results go, inside run_dir.
        fit_overrides: options of `jetlit fit` that win over the files, by dotted name.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which throughput and state are measured.
        device: for the tasks: "auto", "cpu" or "cuda".
        seed: of every candidate; None leaves the files' own.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    fit = CandidateFit(run_dir, fit_configs, fit_overrides or {}, batch, context, seed)
    built = build_tasks(tasks, teacher)
    settings: dict[str, Any] = {"fit": fit.settings(), "tasks": tasks, "context": context, "run_dir": run_dir}
    folder = Path(out_dir)
    found = select_block(
        blocks,
        Architecture.load(placement),
        folder,
        fit.train,
        lambda model: measure_candidate(model, built, context, device),
        settings,
    )
    found.architecture.save(folder / "architecture.json")
    metrics = {f"{name}/{key}": value for name, row in found.candidates.items() for key, value in row.items()}
    result: dict[str, Any] = {
        "config": settings | {"blocks": blocks, "placement": placement, "out_dir": out_dir},
        "metrics": metrics | {"candidates": metric(len(blocks), "blocks")},
        "decision": {"block": found.chosen, "config": dict(blocks[found.chosen])},
    }
    save_figures(block_figures(result), folder)
    save_table(block_markdown(result), folder)
    write_result(
        folder,
        stage="blocks",
        seed=settings["fit"]["seed_everything"],
        seconds=time.monotonic() - begun,
        hash=hash,
        **result,
    )
    print(f"The most accurate block is {found.chosen}.")
