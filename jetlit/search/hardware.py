"""Hardware-aware search: the most accurate shape of a block under a constant state size (paper, section 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit.blocks import check_block_config
from jetlit.models import Architecture
from jetlit.search.candidates import Measure, Metrics, Train, most_accurate
from jetlit.search.grid import GridRow
from jetlit.search.sharing import evaluate_together


@dataclass(frozen=True)
class HardwareSearch:
    """Outcome of a hardware-aware search (paper, table 2).

    Attributes:
        chosen: the most accurate row.
        architecture: the architecture with that row's block.
        rows: the grid, in its order.
        metrics: metrics of each row, in the same order.
    """

    chosen: GridRow
    architecture: Architecture
    rows: list[GridRow]
    metrics: list[Metrics]


def search_hardware(
    rows: Sequence[GridRow],
    block: str,
    block_config: Mapping[str, Any],
    architecture: Architecture,
    out_dir: Path,
    train: Train,
    measure: Measure,
    settings: Mapping[str, Any],
) -> HardwareSearch:
    """Trains and measures every row of a grid and takes the most accurate.

    Several processes may run this on one `out_dir` at the same time: they share the rows and all return the same.

    Args:
        rows: the grid, see `state_size_rows`.
        block: registry name of the block that the rows shape.
        block_config: the block's other arguments.
        architecture: the architecture whose linear layers take the rows.
        out_dir: holds the study's journal and each row's folder, `out_dir/rows/NAME`.
        train: trains a row; data, steps and seed must not depend on the row.
        measure: measures a trained row.
        settings: what training and measuring depend on beside the architecture, JSON values only.

    Returns:
        The choice and all numbers.

    Raises:
        UserError: the block is unknown or cannot take a row; nothing has been trained then.
    """
    for row in rows:
        check_block_config(block, {**block_config, **row.block_config()}, partial=True)
    shaped = {row: architecture.with_block(block, {**block_config, **row.block_config()}) for row in rows}
    architectures = {row.name: shaped[row] for row in rows}
    metrics = evaluate_together(architectures, out_dir, "rows", train, measure, settings)
    best = most_accurate(metrics)
    chosen = next(row for row in rows if row.name == best)
    return HardwareSearch(chosen, shaped[chosen], list(rows), [metrics[row.name] for row in rows])
