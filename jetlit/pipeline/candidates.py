"""The fits of a search's candidates: same configs, data, seed and steps; only architecture and folder differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jetlit_data import load_tokenizer

from jetlit.blocks import is_attention
from jetlit.errors import UserError
from jetlit.models import Architecture, load_model
from jetlit.pipeline.fit import FIT_FILES, FitConfig, fit, resolved_config
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.search.selection import Evaluate, Metrics, Selection
from jetlit.search.sharing import evaluate_candidates
from jetlit.tasks import Task, build_tasks, guessed_tasks, mean_error, score_tasks
from jetlit.values import Count, Device, NonEmptyList, Seed

logger = logging.getLogger("jetlit")

# Names in a fit's result -> names in a search's table.
_NAMES = {"val/loss": "held_out_loss", "val/kl": "held_out_kl"}
# What a candidate's fit leaves in its folder, and a search in its own, as patterns.
CANDIDATE_FILES = ("architecture.json", *FIT_FILES)
SEARCH_FILES = (
    "architecture.json",
    *("table.png", "table.md", "pareto.png"),
    *("jobs/*", "journal.log*", "queue*", "worker-*"),  # the last three of version 0.1
    *(
        f"{kind}/*/{file}"
        for kind in ("candidates", "rows")
        for file in (*CANDIDATE_FILES, "result.json", ".once.json")
    ),
)


@dataclass(frozen=True)
class CandidateFits:
    """How the candidates of a search are trained.

    Attributes:
        run_dir: folder of the whole run; candidates live in it.
        configs: YAML files of `jetlit fit`; one of them reads `${run_dir}/${stage}/architecture.json`.
        overrides: options that win over the files, by dotted name.
        seed: seed of every candidate; None leaves the files' own.
    """

    run_dir: str
    configs: Sequence[str]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def _config(self, stage: str, **more: Any) -> FitConfig:
        if not self.configs:
            raise UserError("The search has no fit_configs: name the YAML files that a candidate is trained with.")
        seed = {} if self.seed is None else {"seed_everything": self.seed}
        return FitConfig(self.configs, {**seed, **self.overrides, "run_dir": self.run_dir, "stage": stage, **more})

    def settings(self) -> dict[str, Any]:
        """Return everything that all candidates share, for hashes.

        Raises:
            UserError: a file or an override is wrong.
        """
        return resolved_config(self._config("candidate"))

    def train(self, folder: Path) -> Result:
        """Train the architecture in a folder; resume from a checkpoint where there is one.

        Raises:
            UserError: the folder is outside the run, or the fit failed.
        """
        if not folder.is_relative_to(self.run_dir):
            raise UserError(f"{folder} is not inside {self.run_dir}: choose an out_dir inside run_dir.")
        result = fit(self._config(str(folder.relative_to(self.run_dir)), ckpt_path="last"))
        metrics = {_NAMES.get(name, name): value for name, value in result.metrics.items()}
        return replace(result, metrics=metrics | {"training_seconds": result.seconds})


@dataclass(kw_only=True)
class CandidatesConfig(StageConfig):
    """What the configs of block and hardware search have in common.

    Attributes:
        tasks: what candidates are scored on, see `jetlit.tasks.build_task`.
        fit_configs: YAML files that each candidate is trained with.
        run_dir: folder of the whole run.
        teacher: folder of the teacher, whose tokenizer the tasks use.
        out_dir: where the results go, inside run_dir.
        fit_overrides: options of `jetlit fit` that win over the files, by dotted name.
        batch: sequences generated at a time when throughput is measured.
        context: tokens of context at which throughput and state are measured.
        device: device of the tasks: "auto", "cpu" or "cuda".
        seed: seed of every candidate; None leaves the files' own.
    """

    tasks: list[dict[str, Any]]
    fit_configs: NonEmptyList[str]
    run_dir: str = "runs/quickstart"
    teacher: str = "${run_dir}/teacher/model"
    out_dir: str
    fit_overrides: dict[str, Any] | None = None
    batch: Count = 8
    context: Count = 512
    device: Device = "auto"
    seed: Seed | None = None

    def _fits(self) -> CandidateFits:
        throughput = {
            "throughput.batch": self.batch,
            "throughput.context": self.context,
            "throughput.cache": f"{self.run_dir}/measurements",
        }
        return CandidateFits(self.run_dir, self.fit_configs, throughput | (self.fit_overrides or {}), self.seed)

    def values(self) -> dict[str, Any]:
        """Return all that the result depends on: of the candidates' fits their settings, not their files' names."""
        return super().values() | {"fit_configs": self._fits().settings(), "fit_overrides": None}

    def _built_tasks(self) -> list[Task]:
        return build_tasks(self.tasks, load_tokenizer(self.teacher))

    def guessed_by_teacher(self) -> list[str]:
        """Warn of the tasks on which the teacher is no better than chance, and return their names."""
        teacher = load_model(self.teacher, device=self.device)
        return warn_of_guesses("The teacher", score_tasks(teacher, self._built_tasks()))

    def evaluation(self, kind: str) -> Evaluate:
        """Return what trains and measures candidates, in `OUT_DIR/KIND/NAME`."""
        tasks, fits = self._built_tasks(), self._fits()
        return partial(
            evaluate_candidates,
            folder=Path(self.out_dir) / kind,
            train=fits.train,
            made=CANDIDATE_FILES,
            measure=partial(_measure, tasks=tasks, context=self.context, device=self.device),
            settings={"fit": fits.settings(), "tasks": self.tasks, "context": self.context, "run_dir": self.run_dir},
        )


def _measure(folder: Path, tasks: Sequence[Task], context: int, device: str) -> Metrics:
    """Score a trained candidate, and count its parameters and the state bytes of one sequence of `context` tokens."""
    model = load_model(folder / "model", device=device)
    dtype = model.lm_head.weight.dtype
    state = [layer.self_attn.state_bytes(1, context, dtype) for layer in model.model.layers]
    linear = [size for size, kind in zip(state, model.config.layer_types or (), strict=True) if not is_attention(kind)]
    scores = score_tasks(model, tasks)
    return scores | {
        "accuracy_stderr": mean_error(scores),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes": sum(state),
        "linear_state_bytes": sum(linear),
    }


def warn_of_guesses(model: str, scores: Mapping[str, float]) -> list[str]:
    """Warn of the tasks on which a model is no better than chance, and return their names.

    Args:
        model: what it is called.
        scores: what `score_tasks` returned for it.
    """
    found = guessed_tasks(scores)
    for sentence in found.values():
        logger.warning(
            "%s is %s: differences there are noise; ask an easier task or more questions, or train it for longer.",
            model,
            sentence,
        )
    return list(found)


def choice(found: Selection, guessed: Sequence[str]) -> dict[str, Any]:
    """Return how sure a search's choice is, for its decision.

    Args:
        found: what it selected.
        guessed: tasks on which the teacher is no better than chance.
    """
    return {
        "accuracy_stderr": found.candidates[found.chosen].get("accuracy_stderr"),
        "not_distinguishable_from": found.indistinguishable,
        "teacher_at_chance": list(guessed),
    }


def linear_block(architecture: Architecture) -> str:
    """Return the linear block of an architecture.

    Raises:
        UserError: it has none, or several.
    """
    linear = sorted({name for name in architecture.layer_types if not is_attention(name)})
    if len(linear) != 1:
        raise UserError(
            f"The hardware search shapes one linear block, but the architecture has {', '.join(linear) or 'none'}: "
            "use one with a single linear block."
        )
    return linear[0]
