"""`jetlit search hardware`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from jetlit.cli.candidate_fit import CandidateFit
from jetlit.cli.scoring import build_tasks, measure_candidate
from jetlit.errors import UserError
from jetlit.models import Architecture
from jetlit.pipeline.report.searches import hardware_figures, hardware_markdown, save_figures, save_table
from jetlit.results import metric, write_result
from jetlit.search.grid import state_size_rows
from jetlit.search.hardware import search_hardware as search


def search_hardware(
    state_size: int,
    key_dims: list[int],
    value_dims: list[int],
    heads: list[int],
    tasks: list[dict[str, Any]],
    fit_configs: list[Path_fr],
    conv_sizes: list[int] | None = None,
    tolerance: float = 0.0,
    run_dir: str = "runs/quickstart",
    architecture: str = "${run_dir}/blocks/architecture.json",
    teacher: str = "${run_dir}/teacher/model",
    out_dir: str = "${run_dir}/hardware",
    fit_overrides: dict[str, Any] | None = None,
    batch: int = 8,
    context: int = 512,
    device: str = "auto",
    seed: int | None = None,
    hash: str | None = None,
) -> None:
    """Searches the shape of the linear block under a constant state size (paper, section 2.5 and table 2).

    Several processes may run this with one out_dir at a time: they share the rows. Writes architecture.json, table.png,
    table.md, pareto.png and result.json; every row has rows/NAME.

    Args:
        state_size: d_K · d_V · heads of a layer, the same for every row.
        key_dims: values of d_K to try.
        value_dims: values of d_V to try.
        heads: numbers of heads to try.
        tasks: what rows are scored on, see `jetlit.tasks.build_task`.
        fit_configs: YAML files that each row is trained with.
        conv_sizes: kernel sizes to try, for a block with a convolution; by default the block's own.
        tolerance: relative deviation from state_size that still counts as equal.
        run_dir: folder of the whole run.
        architecture: file of the architecture whose linear block is shaped.
        teacher: folder of the teacher, whose tokenizer the tasks use.
        out_dir: where the results go, inside run_dir.
        fit_overrides: options of `jetlit fit` that win over the files, by dotted name.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which throughput and state are measured.
        device: for the tasks: "auto", "cpu" or "cuda".
        seed: of every row; None leaves the files' own.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    rows = state_size_rows(state_size, key_dims, value_dims, heads, conv_sizes or [None], tolerance)
    fit = CandidateFit(run_dir, fit_configs, fit_overrides or {}, batch, context, seed)
    built = build_tasks(tasks, teacher)
    base = Architecture.load(architecture)
    block = linear_block(base)
    settings: dict[str, Any] = {"fit": fit.settings(), "tasks": tasks, "context": context, "run_dir": run_dir}
    found = search(
        rows,
        block,
        base.block_configs.get(block, {}),
        base,
        Path(out_dir),
        fit.train,
        lambda model: measure_candidate(model, built, context, device),
        settings,
    )
    found.architecture.save(Path(out_dir) / "architecture.json")
    metrics = {
        f"{row.name}/{key}": value
        for row, measured in zip(found.rows, found.metrics, strict=True)
        for key, value in measured.items()
    }
    row = found.chosen
    grid = {row.name: row.as_dict() for row in rows}
    decision = {"block": block, "row": row.name, "config": found.architecture.block_configs[block]}
    result: dict[str, Any] = {
        "config": settings | {"rows": grid, "block": block, "architecture": architecture, "out_dir": out_dir},
        "metrics": metrics | {"state_size": metric(state_size, "numbers a layer")},
        "decision": decision,
    }
    save_figures(hardware_figures(result), Path(out_dir))
    save_table(hardware_markdown(result), Path(out_dir))
    write_result(
        out_dir,
        stage="hardware",
        seed=settings["fit"]["seed_everything"],
        seconds=time.monotonic() - begun,
        hash=hash,
        **result,
    )
    print(f"The most accurate shape of {block} is d_K {row.key_dim}, d_V {row.value_dim}, {row.heads} heads.")


def linear_block(architecture: Architecture) -> str:
    """Returns the linear block of an architecture.

    Raises:
        UserError: it has none, or several.
    """
    linear = sorted(set(architecture.layer_types) - {"attn", "swa"})
    if len(linear) != 1:
        raise UserError(
            f"The hardware search shapes one linear block, but the architecture has {', '.join(linear) or 'none'}: "
            "use one with a single linear block."
        )
    return linear[0]
