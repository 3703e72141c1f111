"""Placement of full attention: heatmap, beam search under a budget, searched against uniform (paper, section 2.2)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jetlit.errors import UserError
from jetlit.models.architecture import check_budget, uniform_layers
from jetlit.search.beam import Choices, Placement, beam_search, place

Score = Callable[[list[Choices]], list[dict[str, float]]]
"""Scores subnetworks: for each one, every task's objective, larger is better."""

Errors = Callable[[Choices], Mapping[str, float]]
"""Gives the standard error of every task's objective for a subnetwork."""

SMALLEST_GAP = 0.01
"""A smaller gain of full attention on a task (accuracy, or nats) is noise and not scaled up."""


class CombinedObjective:
    """Weighted mean of the tasks' objectives, each normalized between two reference subnetworks.

    Objectives come in different units (accuracy; −loss in nats), so each is expressed as the part it recovers of what
    the fully attentive subnetwork gains over the fully linear one: 0 is as good as `linear`, 1 as good as `full`.
    The paper searches one placement for each task and unites them by hand; one search over the mean keeps a single
    budget. Weights that are zero for all tasks but one give the paper's search on that task.

    Args:
        score: Scores subnetworks on all tasks.
        linear: The subnetwork without full attention.
        full: The subnetwork with full attention everywhere.
        weights: Weight of each task; tasks that are not named do not count.

    Raises:
        UserError: A task is unknown, a weight is negative, or all are zero.
    """

    def __init__(self, score: Score, linear: Choices, full: Choices, weights: Mapping[str, float]) -> None:
        self._score = score
        self.seen: dict[Choices, float] = {}
        self.linear, self.full = score([linear, full])
        unknown = sorted(set(weights) - set(self.linear))
        if unknown:
            raise UserError(
                f"There is no task {unknown[0]!r} to weigh; the tasks are {', '.join(sorted(self.linear))}."
            )
        if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
            raise UserError(
                f"The tasks' weights are {dict(weights)}: give numbers that are not negative and not all zero."
            )
        self.weights = {task: weight / sum(weights.values()) for task, weight in weights.items() if weight}

    def combine(self, scores: Mapping[str, float]) -> float:
        """Return the objective of a subnetwork with these task scores."""
        terms = []
        for task, weight in sorted(self.weights.items()):
            terms.append(weight * ((scores[task] - self.linear[task]) / self._gap(task)))
        return sum(terms)

    def combine_errors(self, errors: Mapping[str, float]) -> float:
        """Return the standard error of the objective from those of the tasks, with exact reference points."""
        return math.hypot(*(weight * errors[task] / self._gap(task) for task, weight in sorted(self.weights.items())))

    def _gap(self, task: str) -> float:
        return max(abs(self.full[task] - self.linear[task]), SMALLEST_GAP)

    def __call__(self, candidates: list[Choices]) -> list[float]:
        """Return the objective of each candidate; `seen` keeps it."""
        values = [self.combine(scores) for scores in self._score(candidates)]
        self.seen |= dict(zip(candidates, values, strict=True))
        return values


@dataclass(frozen=True)
class CurvePoint:
    """A placement of `budget` full-attention layers, its combined objective, and that of each task (fig. 5b)."""

    budget: int
    layers: tuple[int, ...]
    value: float
    scores: dict[str, float]


@dataclass(frozen=True)
class PlacementResult:
    """What a placement search found. Layers are 0-based, scores are the tasks' objectives in their own units.

    Attributes:
        choices: The token mixer of each layer.
        full_attention: Layers with full attention.
        sliding_window: Layers with sliding-window attention.
        value: Combined objective without the sliding windows: 0 as without full attention, 1 as with nothing else.
        value_stderr: Its standard error over the tasks' questions; None where the errors of the scores are not known.
        indistinguishable: Other sets of layers within the budget, seen in the search, whose value lies within one
            standard error, the better ones first.
        scores: Scores of the final subnetwork, sliding windows included.
        linear_scores: Scores without any full-attention layer.
        full_scores: Scores with full attention everywhere.
        heatmap: For each task, the score with full attention in layer 0 alone, 1 alone, … (fig. 5a).
        searched: The best placement found of each size.
        uniform: Evenly spread placements of the same sizes.
    """

    choices: Choices
    full_attention: tuple[int, ...]
    sliding_window: tuple[int, ...]
    value: float
    value_stderr: float | None
    indistinguishable: list[tuple[int, ...]]
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
    errors: Errors | None = None,
) -> PlacementResult:
    """Search which layers keep full attention.

    The placement is the best one found with at most `budget` layers; of equals, the one with fewer. With a budget of
    sliding windows, a second beam search then places "swa" on the layers left, by `pattern_score` alone: these layers
    matter for pattern matching only. No layer is taken that does not help there.

    Args:
        score: Scores subnetworks on all tasks; scores of a subnetwork already seen should cost nothing.
        layers: Number of layers of the model.
        linear: Name of the linear token mixer.
        budget: The largest number of full-attention layers.
        width: Sets of layers that the beam keeps.
        weights: Weight of each task in the combined objective.
        curve_budgets: Sizes at which the search is compared with uniform placement.
        sliding_window_budget: The largest number of sliding-window layers.
        pattern_score: Scores on the tasks that decide on sliding windows; they all weigh the same.
        errors: Standard errors of the tasks' objectives for a subnetwork; None leaves the choice without an error.

    Raises:
        UserError: A budget exceeds the layers, or a task is unknown.
    """
    sizes = sorted(set(curve_budgets))
    for size in (budget, *sizes):
        check_budget(size, layers, "attn")
    check_budget(sliding_window_budget, layers - budget, "swa")
    base, full = (linear,) * layers, ("attn",) * layers
    objective = CombinedObjective(score, base, full, weights)
    # The heatmap goes first: its subnetworks are the search's first level, whose prefixes later levels share.
    alone = score([place(base, [layer], "attn") for layer in range(layers)])
    found = beam_search(objective, base, "attn", max((budget, *sizes)), width)
    chosen = _smallest_best(found[: budget + 1])
    choices = place(base, chosen.layers, "attn")
    error = None if errors is None else objective.combine_errors(errors(choices))
    near = chosen.value - (error or 0.0)
    equals = [
        Placement(tuple(index for index, name in enumerate(seen) if name == "attn"), value)
        for seen, value in objective.seen.items()
        if seen != choices and value >= near and seen.count("attn") <= budget
    ]
    windows: tuple[int, ...] = ()
    if sliding_window_budget:
        assert pattern_score is not None
        equal = dict.fromkeys(pattern_score([base])[0], 1.0)
        pattern = CombinedObjective(pattern_score, base, full, equal)
        windows = _smallest_best(beam_search(pattern, choices, "swa", sliding_window_budget, width, "attn")).layers
        choices = place(choices, windows, "swa")

    def curve(placements: list[tuple[int, ...]]) -> list[CurvePoint]:
        rows = score([place(base, placed, "attn") for placed in placements]) if placements else []
        points = zip(placements, rows, strict=True)
        return [CurvePoint(len(placed), placed, objective.combine(row), row) for placed, row in points]

    return PlacementResult(
        choices=choices,
        full_attention=chosen.layers,
        sliding_window=windows,
        value=chosen.value,
        value_stderr=error,
        indistinguishable=[layers for layers, _ in sorted(equals, key=lambda equal: (-equal.value, equal.layers))],
        scores=score([choices])[0],
        linear_scores=objective.linear,
        full_scores=objective.full,
        heatmap={task: [row[task] for row in alone] for task in alone[0]},
        searched=curve([found[size].layers for size in sizes]),
        uniform=curve([uniform_layers(size, layers) for size in sizes]),
    )


def _smallest_best(placements: list[Placement]) -> Placement:
    return max(placements, key=lambda placement: (placement.value, -len(placement.layers)))
