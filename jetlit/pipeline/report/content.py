"""What a report is made of, read from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jetlit.files import read_json
from jetlit.pipeline.report import figures
from jetlit.pipeline.report.candidates import candidate_figures
from jetlit.pipeline.report.tensorboard import Curve, loss_curves
from jetlit.pipeline.stages import NAMES
from jetlit.results import Result, read_result

MODELS = ("teacher", "stage1", "stage2")


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        model: name of the model.
        prompt: what it was given.
        text: what it added.
    """

    model: str
    prompt: str
    text: str


@dataclass
class RunContent:
    """Everything that a report is made of.

    Attributes:
        folder: the run folder.
        stored: result.json of every finished stage, in order.
        placement: placement.json, or None.
        curves: losses of every fit.
        scores: metrics of the run's models, by model.
        samples: texts that the models wrote.
        evaluations: result.json of every `jetlit eval` in the run, by folder.
        drawn: figures by path relative to `folder`.
    """

    folder: Path
    stored: dict[str, dict[str, Any]]
    placement: dict[str, Any] | None
    curves: dict[str, dict[str, Curve]]
    scores: Mapping[str, Mapping[str, Any]]
    samples: Sequence[Sample]
    evaluations: dict[str, dict[str, Any]]
    drawn: dict[str, Figure] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, Result]:
        """The result of every finished stage."""
        return {stage: Result.of(content) for stage, content in self.stored.items()}


def read_run(folder: Path, scores: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample]) -> RunContent:
    """Read what a run's stages and evaluations left, and draw its figures."""
    stored = _results(folder, [folder / stage for stage in NAMES])
    content = RunContent(
        folder,
        stored,
        read_json(folder / "placement/placement.json") if "placement" in stored else None,
        {stage: lines for stage in stored if (lines := loss_curves(folder / stage / "tensorboard"))},
        scores,
        samples,
        _results(folder, [folder / "eval", *sorted((folder / "eval").glob("*/"))]),
    )
    drawn, results = content.drawn, content.results
    if content.placement is not None:
        drawn |= _under("placement", figures.placement_figures(content.placement))
    for stage in ("blocks", "hardware"):
        if stage in results:
            drawn |= _under(stage, candidate_figures(results[stage]))
    if content.curves:
        drawn["report/losses.png"] = figures.losses(content.curves)
    held_out = {name: results[name].metrics.get("val/loss") for name in MODELS if name in results}
    known = {name: value for name, value in held_out.items() if value is not None}
    if known:
        drawn["report/held_out.png"] = figures.held_out_bars(list(known), list(known.values()))
    return content


def _results(run: Path, folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    found = {str(folder.relative_to(run)): read_result(folder) for folder in folders}
    return {name: result for name, result in found.items() if result is not None}


def _under(folder: str, drawn: Mapping[str, Figure]) -> dict[str, Figure]:
    return {f"{folder}/{name}": figure for name, figure in drawn.items()}
