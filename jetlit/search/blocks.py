"""Selection of the linear block: every candidate trained alike, measured alike, the most accurate taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit.blocks import check_block_config
from jetlit.models import Architecture
from jetlit.search.candidates import Measure, Metrics, Train, most_accurate
from jetlit.search.sharing import evaluate_together


@dataclass(frozen=True)
class BlockSelection:
    """Outcome of a block selection (paper, table 1).

    Attributes:
        chosen: name of the most accurate block.
        architecture: the placement with that block in its linear layers.
        candidates: metrics of each block, in the order given.
    """

    chosen: str
    architecture: Architecture
    candidates: dict[str, Metrics]


def select_block(
    blocks: Mapping[str, Mapping[str, Any]],
    placement: Architecture,
    out_dir: Path,
    train: Train,
    measure: Measure,
    settings: Mapping[str, Any],
) -> BlockSelection:
    """Trains each block in a fixed placement with the same data and steps and takes the most accurate.

    Several processes may run this on one `out_dir` at the same time: they share the blocks and all return the same.

    Args:
        blocks: configuration of each candidate block by its registry name.
        placement: the architecture whose linear layers the candidates fill.
        out_dir: holds the study's journal, and each candidate's `out_dir/candidates/NAME`.
        train: trains a candidate; data, steps and seed must not depend on the candidate.
        measure: measures a trained candidate.
        settings: what training and measuring depend on beside the architecture, JSON values only.

    Returns:
        The choice and all numbers.

    Raises:
        UserError: a block is unknown or its configuration does not fit; nothing has been trained then.
    """
    for name, config in blocks.items():
        check_block_config(name, dict(config), partial=True)
    architectures = {name: placement.with_block(name, dict(config)) for name, config in blocks.items()}
    found = evaluate_together(architectures, out_dir, "candidates", train, measure, settings)
    chosen = most_accurate(found)
    return BlockSelection(chosen, architectures[chosen], found)
