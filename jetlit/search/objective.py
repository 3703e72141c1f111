"""One number out of several tasks' objectives."""

from collections.abc import Callable, Mapping

from jetlit.errors import UserError
from jetlit.search.beam import Choices

Score = Callable[[list[Choices]], list[dict[str, float]]]
"""Scores subnetworks: for each one, every task's objective, larger is better."""

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
        self.linear, self.full = score([linear, full])
        unknown = sorted(set(weights) - set(self.linear))
        if unknown:
            raise UserError(
                f"There is no task {unknown[0]!r} to weigh; the tasks are {', '.join(sorted(self.linear))}."
            )
        if min(weights.values(), default=0) < 0 or not any(weights.values()):
            raise UserError("The tasks' weights must not be negative and not all zero: give one of them a weight of 1.")
        self.weights = {task: weight / sum(weights.values()) for task, weight in weights.items() if weight}

    def combine(self, scores: Mapping[str, float]) -> float:
        """Return the objective of a subnetwork with these task scores."""
        terms = []
        for task, weight in sorted(self.weights.items()):
            gap = abs(self.full[task] - self.linear[task])
            terms.append(weight * ((scores[task] - self.linear[task]) / max(gap, SMALLEST_GAP)))
        return sum(terms)

    def __call__(self, candidates: list[Choices]) -> list[float]:
        """Return the objective of each candidate."""
        return [self.combine(scores) for scores in self._score(candidates)]
