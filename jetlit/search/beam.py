"""Beam search over which layers take an option; pure functions of an injected objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jetlit.errors import UserError
from jetlit.models.architecture import check_budget

Choices = tuple[str, ...]
"""The name of the token mixer that each layer runs, from the first layer to the last."""


class Placement(NamedTuple):
    """A set of layers that take the option, and how good the subnetwork is.

    Attributes:
        layers: ascending, 0-based.
        value: the objective; larger is better.
    """

    layers: tuple[int, ...]
    value: float


def place(base: Choices, layers: Iterable[int], option: str) -> Choices:
    """Return `base` with `option` at `layers`."""
    chosen = set(layers)
    return tuple(option if index in chosen else name for index, name in enumerate(base))


def beam_search(
    objective: Callable[[list[Choices]], list[float]],
    base: Choices,
    option: str,
    budget: int,
    width: int,
) -> list[Placement]:
    """Find the best sets of layers of each size up to a budget (paper, section 2.2).

    Level k extends each of the `width` best sets of k − 1 layers by every layer that `base` leaves at its default, so a
    width of at least the number of sets makes the search exhaustive. Equal values are ordered by the layers
    themselves, the set with the earlier layers first, so the outcome does not depend on the order of evaluation.

    Args:
        objective: values of a list of subnetworks, larger is better. It is called once a level.
        base: the subnetwork that no layer's option changes yet; layers that already take `option` are left alone.
        option: the token mixer to place.
        budget: the largest number of layers to place.
        width: sets kept after each level.

    Returns:
        `budget` + 1 placements: the best found with exactly 0, 1, … `budget` layers.

    Raises:
        UserError: the budget exceeds the free layers, or the width is not positive.
    """
    free = [index for index, name in enumerate(base) if name != option]
    check_budget(budget, len(free), option)
    if width < 1:
        raise UserError(f"The beam's width is {width}, but a search keeps at least one candidate: set it to 1 or more.")
    beam = _best(objective, base, option, [()], 1)
    best = [beam[0]]
    for _ in range(budget):
        extended = {tuple(sorted((*kept.layers, index))) for kept in beam for index in free if index not in kept.layers}
        beam = _best(objective, base, option, sorted(extended), width)
        best.append(beam[0])
    return best


def _best(
    objective: Callable[[list[Choices]], list[float]],
    base: Choices,
    option: str,
    sets: Sequence[tuple[int, ...]],
    width: int,
) -> list[Placement]:
    values = objective([place(base, layers, option) for layers in sets])
    ranked = sorted(map(Placement, sets, values), key=lambda placement: (-placement.value, placement.layers))
    return ranked[:width]
