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
    """What a search took.

    Attributes:
        chosen: Name of the candidate that was taken.
        architecture: Its architecture.
        candidates: Metrics of each candidate, in the order given.
        indistinguishable: Others whose accuracy lies within one standard error of the best one, the better ones first.
    """

    chosen: str
    architecture: Architecture
    candidates: dict[str, Metrics]
    indistinguishable: list[str]


def select_block(blocks: Mapping[str, Mapping[str, Any]], placement: Architecture, evaluate: Evaluate) -> Selection:
    """Train each block, given by name with its arguments, in one placement; take the best (`ranked`; paper, table 1).

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
    """Train the linear layers in every shape of a grid and take the best (`ranked`; paper, section 2.5 and table 2).

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
    chosen, *others = ranked(found)
    return Selection(chosen, architectures[chosen], found, others)


def ranked(candidates: Mapping[str, Metrics]) -> list[str]:
    """Return the names of the candidates that are as accurate as the best one, the one to take first.

    These are all whose "accuracy" lies within one standard error of the highest, by the "accuracy_stderr" of the
    candidate that has it; 0 where it has none. Among them the lower "held_out_loss" is better, then the higher
    "decode_tokens_per_s", then the earlier place. A measured speed thus decides between equal losses alone, and it is
    kept beside the candidate, so that a rerun decides alike.
    """
    best = max(candidates.values(), key=lambda metrics: (metrics["accuracy"], -(metrics.get("accuracy_stderr") or 0.0)))
    least = best["accuracy"] - (best.get("accuracy_stderr") or 0.0)
    equal = [name for name, metrics in candidates.items() if metrics["accuracy"] >= least]

    def key(name: str) -> tuple[float, float]:
        loss, speed = (candidates[name].get(metric) for metric in ("held_out_loss", "decode_tokens_per_s"))
        return float("inf") if loss is None else loss, -(speed or 0.0)

    return sorted(equal, key=key)
