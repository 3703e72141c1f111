"""Stage `hardware`: which shape of the linear block."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from jetlit.files import claim_folder
from jetlit.models import Architecture
from jetlit.pipeline.candidates import CandidatesConfig, choice, linear_block
from jetlit.pipeline.report.candidates import save_candidates
from jetlit.results import Result, config_hash
from jetlit.search import selection
from jetlit.search.grid import state_size_rows
from jetlit.values import Count, NonEmptyList, NonNegativeFloat


@dataclass(kw_only=True)
class HardwareConfig(CandidatesConfig):
    """Search the shape of the linear block under a constant state size (paper, section 2.5 and table 2).

    Writes architecture.json, table.png, table.md and pareto.png. Every shape has a folder rows/NAME. Several processes
    may run this with one out_dir at a time: they share the shapes.

    Attributes:
        state_size: d_K · d_V · heads of a layer, the same for every shape.
        key_dims: values of d_K to try.
        value_dims: values of d_V to try.
        heads: numbers of heads to try.
        conv_sizes: kernel sizes to try, for a block with a convolution; by default the block's own.
        tolerance: relative deviation from state_size that still counts as equal.
        architecture: file of the architecture whose linear block is shaped.
    """

    state_size: Count
    key_dims: NonEmptyList[Count]
    value_dims: NonEmptyList[Count]
    heads: NonEmptyList[Count]
    conv_sizes: NonEmptyList[Count] | None = None
    tolerance: NonNegativeFloat = 0.0
    architecture: str = "${run_dir}/blocks/architecture.json"
    out_dir: str = "${run_dir}/hardware"


def search_hardware(config: HardwareConfig) -> Result:
    """Search the shape; the decision holds block, shape and the block's arguments."""
    conv_sizes = config.conv_sizes or (None,)
    rows = state_size_rows(
        config.state_size, config.key_dims, config.value_dims, config.heads, conv_sizes, config.tolerance
    )
    values, guessed = config.values(), config.guessed_by_teacher()
    base = Architecture.load(config.architecture)
    block = linear_block(base)
    evaluate = config.evaluation("rows")
    claim_folder(config.out_dir, search=config_hash(values))
    found = selection.search_hardware(rows, block, base.block_configs.get(block, {}), base, evaluate)
    found.architecture.save(Path(config.out_dir) / "architecture.json")
    metrics = {f"{name}/{key}": value for name, row in found.candidates.items() for key, value in row.items()}
    result = Result(
        "hardware",
        values | {"rows": {row.name: asdict(row) for row in rows}, "block": block},
        metrics | {"state_size": config.state_size},
        {"block": block, "row": found.chosen, "config": found.architecture.block_configs[block]}
        | choice(found, guessed),
        values["fit_configs"]["seed_everything"],
    )
    save_candidates(result, Path(config.out_dir))
    return result
