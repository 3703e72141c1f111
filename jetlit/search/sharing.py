"""Shares a search's work among the processes that run the same search on one folder."""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import existing_paths
from jetlit.models import Architecture
from jetlit.once import UNREAD, digests, once
from jetlit.progress import progress_bar
from jetlit.results import Result, config_hash
from jetlit.search.beam import Choices
from jetlit.search.evaluation import LayerCounts, SubnetEvaluator
from jetlit.search.selection import Metrics
from jetlit.search.study import SharedStudy


def evaluate_candidates(
    architectures: Mapping[str, Architecture],
    folder: Path,
    train: Callable[[Path], Result],
    measure: Callable[[Path], Mapping[str, Any]],
    settings: Mapping[str, Any],
    metric: str = "accuracy",
    made: Collection[str] = (),
) -> dict[str, Metrics]:
    """Train and measure candidates, each once, whatever the number of processes that take part.

    Args:
        architectures: The candidates, by name.
        folder: Holds each candidate's folder NAME; the study's jobs stand beside it, in `jobs/`.
        train: Trains the architecture.json of a folder, or resumes that. Data, steps and seed must not depend on it.
        measure: Measures the trained model of a folder.
        settings: What training and measuring depend on beside the architecture, JSON values only.
        metric: The number that the search decides by.
        made: Patterns of the files that training leaves in a folder, see `once`.

    Returns:
        The metrics of training and measuring by name, the same in every process.

    Raises:
        UserError: There is no candidate, or one lacks the metric.
    """
    if not architectures:
        raise UserError("The search has no candidates to choose from: name at least one.")
    described = {name: asdict(architecture) for name, architecture in architectures.items()}
    jobs = [{"name": name} for name in architectures]
    inputs = [path for path in existing_paths(settings, *UNREAD) if not Path(path).is_relative_to(folder.parent)]
    known = {**settings, "candidates": described, "inputs": digests(inputs, settings)}
    study = SharedStudy(folder.parent, config_hash(known)[:16], jobs)

    def evaluate(name: str) -> Result:
        architectures[name].save(folder / name / "architecture.json")
        trained = train(folder / name)
        metrics = {**trained.metrics, **measure(folder / name)}
        if metrics.get(metric) is None:
            raise UserError(
                f"The candidate in {folder / name} has no {metric}: give the search at least one task, or its fit a "
                "validation."
            )
        return replace(trained, metrics=metrics)

    def job(values: dict[str, Any]) -> Metrics:
        name = values["name"]
        key = {**settings, "architecture": described[name]}
        files = ("architecture.json", *made)
        return dict(once(folder / name, key, lambda: evaluate(name), inputs=inputs, made=files).metrics)

    with progress_bar("Candidates", len(jobs), "candidates") as advance:
        return dict(zip(architectures, study.run(job, lambda: advance(1)), strict=True))


class SharedEvaluator:
    """A `SubnetEvaluator` whose candidates are shared among the processes that run the same search.

    The new candidates of a call are cut, in lexicographic order, into one part for each worker, so that a part keeps
    most of its shared prefixes. A part is a job of a study. Each score is computed once and read by all workers, which
    therefore decide alike. A missing or dead worker only costs time. `counts` is of all workers.

    Args:
        evaluator: Scores the parts that this process takes.
        folder: Holds the study's jobs, which all workers see.
        key: What the scores depend on beside the candidates: super network and tasks.
        workers: Number of processes that search together, the same in each of them.
    """

    def __init__(self, evaluator: SubnetEvaluator, folder: Path, key: Mapping[str, Any], workers: int) -> None:
        self.counts = LayerCounts()
        self._evaluator = evaluator
        self._folder = folder
        self._key = dict(key)
        self._workers = workers
        self._known: dict[Choices, dict[str, float]] = {}

    def __call__(self, candidates: list[Choices]) -> list[dict[str, float]]:
        """Return the objective of every task for each candidate; larger is better."""
        new = sorted(set(candidates) - set(self._known))
        self.counts.naive += len(candidates) * self._evaluator.passes
        self.counts.unshared += len(new) * self._evaluator.passes
        if new:
            self._evaluate(new)
        return [dict(self._known[candidate]) for candidate in candidates]

    def _evaluate(self, new: list[Choices]) -> None:
        count = min(self._workers, len(new))
        bounds = [len(new) * number // count for number in range(count + 1)]
        parts = [new[start:end] for start, end in itertools.pairwise(bounds)]

        def job(values: dict[str, Any]) -> dict[str, Any]:
            before = self._evaluator.counts.done
            scores = self._evaluator(parts[values["part"]])
            return {"scores": scores, "layer_evaluations": self._evaluator.counts.done - before}

        name = config_hash({**self._key, "parts": [["/".join(choices) for choices in part] for part in parts]})[:16]
        study = SharedStudy(self._folder, name, [{"part": number} for number in range(len(parts))])
        for part, outcome in zip(parts, study.run(job, lambda: None), strict=True):
            self._known |= dict(zip(part, outcome["scores"], strict=True))
            self.counts.done += outcome["layer_evaluations"]
