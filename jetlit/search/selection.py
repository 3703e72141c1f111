"""Selection among candidates that were trained and measured alike: the linear block, and its shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jetlit.blocks import check_block_config
from jetlit.models import Architecture
from jetlit.search.grid import GridRow

Metrics = dict[str, Any]
"""Numbers by name; None for one that is not finite."""

Evaluate = Callable[[Mapping[str, Architecture]], dict[str, Metrics]]
"""Trains and measures architectures with the same data, steps and seed; gives the metrics of each, in their order."""


@dataclass(frozen=True)
class Selection:
    """The name and the architecture of the most accurate candidate, and the metrics of each in the order given."""

    chosen: str
    architecture: Architecture
    candidates: dict[str, Metrics]


def select_block(blocks: Mapping[str, Mapping[str, Any]], placement: Architecture, evaluate: Evaluate) -> Selection:
    """Train each block, given by name with its arguments, in one placement; take the most accurate (paper, table 1).

    Raises:
        UserError: A block is unknown or its arguments do not fit; nothing has been trained then.
    """
    for name, config in blocks.items():
        check_block_config(name, dict(config), partial=True)
    return _select({name: placement.with_block(name, dict(config)) for name, config in blocks.items()}, evaluate)


def search_hardware(
    rows: Sequence[GridRow],
    block: str,
    block_config: Mapping[str, Any],
    architecture: Architecture,
    evaluate: Evaluate,
) -> Selection:
    """Train the linear layers in every shape of a grid and take the most accurate (paper, section 2.5 and table 2).

    `block_config` holds the arguments of the block that the rows do not set.

    Raises:
        UserError: The block is unknown or cannot take a shape; nothing has been trained then.
    """
    shaped = {row.name: {**block_config, **row.block_config()} for row in rows}
    for config in shaped.values():
        check_block_config(block, config, partial=True)
    return _select({name: architecture.with_block(block, config) for name, config in shaped.items()}, evaluate)


def _select(architectures: Mapping[str, Architecture], evaluate: Evaluate) -> Selection:
    found = evaluate(architectures)
    chosen = most_accurate(found)
    return Selection(chosen, architectures[chosen], found)


def most_accurate(candidates: Mapping[str, Metrics]) -> str:
    """Return the name of the best candidate. Only numbers that a rerun repeats decide, never a measured time.

    The highest accuracy wins; the lower held-out loss decides between equals, then the order given.
    """

    def rank(name: str) -> tuple[float, float]:
        loss = candidates[name].get("held_out_loss")
        return -candidates[name]["accuracy"], float("inf") if loss is None else loss

    return min(candidates, key=rank)
