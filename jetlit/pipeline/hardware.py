"""Stage `hardware`: which shape of the linear block."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetlit.models import Architecture
from jetlit.pipeline.candidates import CandidatesConfig, linear_block
from jetlit.pipeline.report.candidates import save_candidates
from jetlit.results import Result
from jetlit.search import selection
from jetlit.search.grid import state_size_rows


@dataclass
class HardwareConfig(CandidatesConfig):
    """Search the shape of the linear block under a constant state size (paper, section 2.5 and table 2).

    Writes architecture.json, table.png, table.md and pareto.png. Every shape has a folder rows/NAME. Several processes
    may run this with one out_dir at a time: they share the shapes.

    Attributes:
        state_size: d_K · d_V · heads of a layer, the same for every shape.
        key_dims: values of d_K to try.
        value_dims: values of d_V to try.
        heads: numbers of heads to try.
        tasks: what candidates are scored on, see `jetlit.tasks.build_task`.
        fit_configs: YAML files that each candidate is trained with.
        conv_sizes: kernel sizes to try, for a block with a convolution; by default the block's own.
        tolerance: relative deviation from state_size that still counts as equal.
        run_dir: folder of the whole run.
        architecture: file of the architecture whose linear block is shaped.
        teacher: folder of the teacher, whose tokenizer the tasks use.
        out_dir: where the results go, inside run_dir.
        fit_overrides: options of `jetlit fit` that win over the files, by dotted name.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which throughput and state are measured.
        device: device of the tasks: "auto", "cpu" or "cuda".
        seed: seed of every candidate; None leaves the files' own.
    """

    state_size: int
    key_dims: list[int]
    value_dims: list[int]
    heads: list[int]
    tasks: list[dict[str, Any]]
    fit_configs: list[str]
    conv_sizes: list[int] | None = None
    tolerance: float = 0.0
    run_dir: str = "runs/quickstart"
    architecture: str = "${run_dir}/blocks/architecture.json"
    teacher: str = "${run_dir}/teacher/model"
    out_dir: str = "${run_dir}/hardware"
    fit_overrides: dict[str, Any] | None = None
    batch: int = 8
    context: int = 512
    device: str = "auto"
    seed: int | None = None


def search_hardware(config: HardwareConfig) -> Result:
    """Search the shape; the decision holds block, shape and the block's arguments."""
    conv_sizes = config.conv_sizes or (None,)
    rows = state_size_rows(
        config.state_size, config.key_dims, config.value_dims, config.heads, conv_sizes, config.tolerance
    )
    values = config.values()
    base = Architecture.load(config.architecture)
    block = linear_block(base)
    found = selection.search_hardware(rows, block, base.block_configs.get(block, {}), base, config.evaluation("rows"))
    found.architecture.save(Path(config.out_dir) / "architecture.json")
    metrics = {f"{name}/{key}": value for name, row in found.candidates.items() for key, value in row.items()}
    result = Result(
        "hardware",
        values | {"rows": {row.name: asdict(row) for row in rows}, "block": block},
        metrics | {"state_size": config.state_size},
        {"block": block, "row": found.chosen, "config": found.architecture.block_configs[block]},
        values["fit_configs"]["seed_everything"],
    )
    save_candidates(result, Path(config.out_dir))
    return result
