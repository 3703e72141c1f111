"""Placement of full attention: heatmap, beam search under a budget, searched against uniform (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jetlit.models.architecture import check_budget, uniform_layers
from jetlit.search.beam import Choices, Placement, beam_search, place
from jetlit.search.objective import CombinedObjective, Score


@dataclass(frozen=True)
class CurvePoint:
    """One point of fig. 5b: a placement of `budget` full layers and what it scores.

    Attributes:
        budget: number of full-attention layers.
        layers: which ones.
        value: the combined objective (0: no full layer, 1: all layers full).
        scores: objective of each task, in its own unit.
    """

    budget: int
    layers: tuple[int, ...]
    value: float
    scores: dict[str, float]


@dataclass(frozen=True)
class PlacementResult:
    """What a placement search found.

    Attributes:
        choices: the token mixer of each layer.
        full_attention: layers with full attention, 0-based.
        sliding_window: layers with sliding-window attention, 0-based.
        value: combined objective of the subnetwork with these full-attention layers and no sliding window.
        scores: objective of each task for the final subnetwork, sliding windows included.
        linear_scores: the same without any full-attention layer.
        full_scores: the same with full attention everywhere.
        heatmap: for each task, the objective with that one layer on full attention, from the first layer to the last.
        searched: the best placement found of each size.
        uniform: evenly spread placements of the same sizes.
    """

    choices: Choices
    full_attention: tuple[int, ...]
    sliding_window: tuple[int, ...]
    value: float
    scores: dict[str, float]
    linear_scores: dict[str, float]
    full_scores: dict[str, float]
    heatmap: dict[str, list[float]]
    searched: list[CurvePoint]
    uniform: list[CurvePoint]

    def as_dict(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)


def search_placement(
    score: Score,
    layers: int,
    *,
    linear: str,
    budget: int,
    width: int,
    weights: Mapping[str, float],
    curve_budgets: Sequence[int] = (),
    sliding_window_budget: int = 0,
    pattern_score: Score | None = None,
) -> PlacementResult:
    """Search which layers keep full attention.

    The placement is the best one found with at most `budget` layers; of equals, the one with fewer. With a budget of
    sliding windows, a second beam search then places "swa" on the layers left, by `pattern_score` alone: these layers
    matter for pattern matching only. A layer is taken only while it helps there.

    Args:
        score: scores subnetworks on all tasks; scores of a subnetwork already seen should cost nothing.
        layers: number of layers of the model.
        linear: name of the linear token mixer.
        budget: the largest number of full-attention layers.
        width: the beam's width.
        weights: weight of each task in the combined objective.
        curve_budgets: sizes at which the search is compared with uniform placement.
        sliding_window_budget: the largest number of sliding-window layers.
        pattern_score: scores on the multiple-choice tasks, which decide on sliding windows; they all weigh the same.

    Returns:
        The placement, the heatmap of fig. 5a and both curves of fig. 5b.

    Raises:
        UserError: a budget exceeds the layers, or a task is unknown.
    """
    sizes = sorted(set(curve_budgets))
    for size in (budget, *sizes):
        check_budget(size, layers, "attn")
    check_budget(sliding_window_budget, layers - budget, "swa")
    base: Choices = (linear,) * layers
    objective = CombinedObjective(score, base, ("attn",) * layers, weights)
    # The heatmap goes first: its subnetworks are the search's first level, whose prefixes later levels share.
    heatmap = measure_heatmap(score, base)
    found = beam_search(objective, base, "attn", max((budget, *sizes)), width)
    chosen = max(found[: budget + 1], key=lambda placement: (placement.value, -len(placement.layers)))
    choices = place(base, chosen.layers, "attn")
    sliding: tuple[int, ...] = ()
    if sliding_window_budget:
        assert pattern_score is not None
        sliding = place_sliding_windows(pattern_score, base, choices, sliding_window_budget, width)
        choices = place(choices, sliding, "swa")
    uniform = [uniform_layers(size, layers) for size in sizes]
    return PlacementResult(
        choices=choices,
        full_attention=chosen.layers,
        sliding_window=sliding,
        value=chosen.value,
        scores=score([choices])[0],
        linear_scores=objective.linear,
        full_scores=objective.full,
        heatmap=heatmap,
        searched=_curve(score, objective, base, [found[size].layers for size in sizes]),
        uniform=_curve(score, objective, base, uniform),
    )


def measure_heatmap(score: Score, base: Choices) -> dict[str, list[float]]:
    """Score each subnetwork that has one full-attention layer (fig. 5a).

    Returns:
        For each task, the objective of full attention at layer 0, 1, …
    """
    scores = score([place(base, [layer], "attn") for layer in range(len(base))])
    return {task: [row[task] for row in scores] for task in scores[0]}


def place_sliding_windows(score: Score, base: Choices, choices: Choices, budget: int, width: int) -> tuple[int, ...]:
    """Find the layers that become sliding-window attention beside given full-attention layers.

    Args:
        score: scores subnetworks on the tasks that decide, which all weigh the same.
        base: the subnetwork without full attention, the reference that the tasks are normalized with.
        choices: the subnetwork with its full-attention layers placed.
        budget: the largest number of sliding-window layers.
        width: the beam's width.

    Returns:
        The layers, ascending; none when a sliding window does not help.
    """
    weights = dict.fromkeys(score([base])[0], 1.0)
    objective = CombinedObjective(score, base, ("attn",) * len(base), weights)
    open_layers = [index for index, name in enumerate(choices) if name != "attn"]

    def value(candidates: list[Choices]) -> list[float]:
        return objective([_merge(choices, open_layers, candidate) for candidate in candidates])

    found = beam_search(value, tuple(choices[index] for index in open_layers), "swa", budget, width)
    best: Placement = max(found, key=lambda placement: (placement.value, -len(placement.layers)))
    return tuple(open_layers[index] for index in best.layers)


def _merge(choices: Choices, positions: Sequence[int], names: Sequence[str]) -> Choices:
    merged = list(choices)
    for position, name in zip(positions, names, strict=True):
        merged[position] = name
    return tuple(merged)


def _curve(
    score: Score, objective: CombinedObjective, base: Choices, placements: Sequence[tuple[int, ...]]
) -> list[CurvePoint]:
    rows = score([place(base, layers, "attn") for layers in placements]) if placements else []
    return [
        CurvePoint(len(layers), layers, objective.combine(row), row)
        for layers, row in zip(placements, rows, strict=True)
    ]
