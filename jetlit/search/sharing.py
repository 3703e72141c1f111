"""Spreads a search's work over processes that run the same search on one folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.models import Architecture
from jetlit.progress import progress_bar
from jetlit.results import config_hash
from jetlit.search.beam import Choices
from jetlit.search.candidates import Measure, Metrics, Train, evaluate_candidate
from jetlit.search.evaluation import LayerCounts, SubnetEvaluator
from jetlit.search.study import SharedStudy


def evaluate_together(
    architectures: Mapping[str, Architecture],
    folder: Path,
    kind: str,
    train: Train,
    measure: Measure,
    settings: Mapping[str, Any],
    judged_by: str = "accuracy",
) -> dict[str, Metrics]:
    """Trains and measures candidates, each once, whatever the number of processes at it.

    Args:
        architectures: what to train, by name.
        folder: holds the study's journal, and each candidate's folder `folder/KIND/NAME`.
        kind: what the candidates are, in the plural ("rows").
        train: trains one; data, steps and seed must not depend on which.
        measure: measures a trained one.
        settings: what training and measuring depend on beside the architecture, JSON values only.
        judged_by: the metric that the search cannot do without.

    Returns:
        The metrics by name, the same in every process.

    Raises:
        UserError: there is nothing to choose from.
    """
    if not architectures:
        raise UserError(f"The search has no {kind} to choose from: name at least one.")
    described = {name: asdict(architecture) for name, architecture in architectures.items()}
    study = SharedStudy(
        folder, config_hash({**settings, "candidates": described})[:16], [{"name": name} for name in architectures]
    )

    def job(row: dict[str, Any]) -> tuple[float, Metrics]:
        name = row["name"]
        metrics = evaluate_candidate(architectures[name], folder / kind / name, train, measure, settings, judged_by)
        return metrics[judged_by]["value"], metrics

    with progress_bar(kind.capitalize(), len(architectures), kind) as advance:
        return dict(zip(architectures, study.run(job, lambda: advance(1)), strict=True))


class SharedEvaluator:
    """A `SubnetEvaluator` whose candidates are dealt out to the processes that run the same search.

    Every call's new candidates are cut, in lexicographic order, into as many parts as there are workers, so that a part
    keeps most of its shared prefixes; a part is a job of a study. Each score is computed once and read by all, so all
    workers take the same decisions. Fewer workers than were announced, or a worker's death, cost time alone.

    Args:
        evaluator: scores the parts that this process takes.
        folder: holds the study's journal; the workers' common ground.
        key: what the scores depend on beside the candidates: super network and tasks.
        workers: processes meant to search together; the same number in each of them.

    Attributes:
        counts: layer evaluations of all workers so far.
    """

    def __init__(self, evaluator: SubnetEvaluator, folder: Path, key: Mapping[str, Any], workers: int) -> None:
        self.counts = LayerCounts()
        self._evaluator = evaluator
        self._folder = folder
        self._key = dict(key)
        self._workers = workers
        self._known: dict[Choices, dict[str, float]] = {}

    def __call__(self, candidates: list[Choices]) -> list[dict[str, float]]:
        """Scores subnetworks; see `SubnetEvaluator`."""
        new = sorted(set(candidates) - set(self._known))
        self.counts.naive += len(candidates) * self._evaluator.passes
        self.counts.unshared += len(new) * self._evaluator.passes
        if new:
            self._evaluate(_parts(new, self._workers))
        return [dict(self._known[candidate]) for candidate in candidates]

    def _evaluate(self, parts: Sequence[Sequence[Choices]]) -> None:
        def job(row: dict[str, Any]) -> tuple[float, dict[str, Any]]:
            before = self._evaluator.counts.done
            scores = self._evaluator(list(parts[row["part"]]))
            return 0.0, {"scores": scores, "layer_evaluations": self._evaluator.counts.done - before}

        name = config_hash({**self._key, "parts": [["/".join(choices) for choices in part] for part in parts]})[:16]
        study = SharedStudy(self._folder, name, [{"part": number} for number in range(len(parts))])
        for part, outcome in zip(parts, study.run(job, lambda: None), strict=True):
            self._known |= dict(zip(part, outcome["scores"], strict=True))
            self.counts.done += outcome["layer_evaluations"]


def _parts(candidates: Sequence[Choices], count: int) -> list[Sequence[Choices]]:
    """At most `count` parts of about equal size, in order, none of them empty."""
    count = min(count, len(candidates))
    bounds = [len(candidates) * number // count for number in range(count + 1)]
    return [candidates[start:end] for start, end in itertools.pairwise(bounds)]
