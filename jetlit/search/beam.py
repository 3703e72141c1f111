"""Beam search over which layers take an option; pure functions of an injected objective."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from jetlit.errors import UserError
from jetlit.models.architecture import check_budget

Choices = tuple[str, ...]
"""The name of the token mixer that each layer runs, from the first layer to the last."""


class Placement(NamedTuple):
    """The layers that take the option, ascending and 0-based, and the subnetwork's objective (larger is better)."""

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
    kept: str | None = None,
) -> list[Placement]:
    """Find the best sets of layers of each size up to a budget (paper, section 2.2).

    Level k extends each of the `width` best sets of k − 1 layers by every free layer, so a width of at least the number
    of sets makes the search exhaustive. Of equal values, the set with the earlier layers comes first.

    Args:
        objective: Values of a list of subnetworks, larger is better. It is called once a level.
        base: The subnetwork to start from.
        option: The token mixer to place. Layers of `base` that have it already are not free.
        budget: The largest number of layers to place.
        width: Sets kept after each level.
        kept: A token mixer whose layers are not free either.

    Returns:
        `budget` + 1 placements: the best found with exactly 0, 1, … `budget` layers.

    Raises:
        UserError: The budget exceeds the free layers, or the width is not positive.
    """
    free = [index for index, name in enumerate(base) if name not in (option, kept)]
    check_budget(budget, len(free), option)
    if width < 1:
        raise UserError(f"The beam's width is {width}, but a search keeps at least one candidate: set it to 1 or more.")
    best: list[Placement] = []
    sets: set[tuple[int, ...]] = {()}
    for _ in range(budget + 1):
        ordered = sorted(sets)
        values = objective([place(base, layers, option) for layers in ordered])
        ranked = sorted(map(Placement, ordered, values), key=lambda placement: (-placement.value, placement.layers))
        best.append(ranked[0])
        beam = [placement.layers for placement in ranked[:width]]
        sets = {tuple(sorted((*layers, index))) for layers in beam for index in free if index not in layers}
    return best
