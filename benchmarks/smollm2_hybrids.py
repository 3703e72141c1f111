"""The hybrid and its teacher, both trained on the same text: how far apart they end, and what brings them closer."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from smollm2_lab import Job, Lab, Row

from jetlit.pipeline.fit import resolved_config
from jetlit.results import read_result

STUDENT, TEACHER = "model.init_args.student", "model.init_args.teacher"
RATE, STEPS = "model.init_args.optimizer.init_args.lr", "trainer.max_steps"
CONTINUED_RATE = 1e-3
"""Half of stage 2's own, as for a model that is trained already; at 5e-4 it ended 0.03 nats higher."""
HYBRIDS = {"stage 1": "stage1", "hybrid": "stage2"}
TEXT_ALONE = "Held-out loss: of text alone, nats per token."


def final(lab: Lab) -> None:
    """Compare the hybrid after both stages against its teacher, as it is and continued on the same tokens."""

    def job(model: str, seed: int, find: Callable[[], Path]) -> Job:
        return {"model": model, "seed": seed}, partial(_held_out, lab, _name(model, seed), find)

    jobs = [job("teacher", 0, lab.teacher)]
    for seed in lab.seeds:
        jobs += [job(name, seed, partial(_hybrid, lab, stage, seed)) for name, stage in HYBRIDS.items()]
        jobs.append(job("teacher continued", seed, partial(_continued, lab, seed)))
    lab.tabled("final", "Teacher and hybrid", jobs, TEXT_ALONE)


def further(lab: Lab) -> None:
    """Compare what brings the hybrid closer to the continued teacher: that teacher as its own, or more tokens."""
    jobs: list[Job] = [
        ({"model": model, "seed": seed}, partial(_trained, lab, _name(model, seed), partial(train, lab, seed)))
        for seed in lab.seeds
        for model, train in FURTHER.items()
    ]
    lab.tabled("further", "Closer to the continued teacher", jobs, f"{TEXT_ALONE} {FURTHER_NOTES}")


FURTHER_NOTES = (
    "Mixture: held-out loss of all that is trained on. Tokens: those of the model's own fits; what its teacher was "
    "continued on comes on top."
)


def _stages(lab: Lab, seed: int) -> list[Path]:
    return [_hybrid(lab, stage, seed) for stage in HYBRIDS.values()]


def _taught(lab: Lab, seed: int) -> list[Path]:
    start = _hybrid(lab, "stage1", seed)
    return [start, _taught_stage2(lab, "taught", seed, start)]


def _adapted(lab: Lab, seed: int) -> list[Path]:
    start = _adapted_stage1(lab, seed)
    return [start, _fit(lab, "adapted", "stage2", seed, {STUDENT: start})]


def _adapted_and_taught(lab: Lab, seed: int) -> list[Path]:
    start = _adapted_stage1(lab, seed)
    return [start, _taught_stage2(lab, "adapted_taught", seed, start)]


def _long(lab: Lab, seed: int) -> list[Path]:
    start = _hybrid(lab, "stage1", seed)
    first, second = _steps(lab)
    return [start, _fit(lab, "long", "stage2", seed, {STUDENT: start, STEPS: first + 2 * second})]


def _continued_again(lab: Lab, seed: int) -> list[Path]:
    """Train on the tokens of the first time once more, in another order."""
    first = _continued(lab, seed)
    overrides = {STUDENT: first, RATE: CONTINUED_RATE, STEPS: sum(_steps(lab)), "seed_everything": seed + 1}
    return [first, _fit(lab, "continued_again", "stage2", seed, overrides)]


FURTHER: dict[str, Callable[[Lab, int], list[Path]]] = {
    "hybrid": _stages,
    "hybrid, stage 2 taught by the continued teacher": _taught,
    "hybrid of the continued teacher": _adapted,
    "hybrid of the continued teacher, stage 2 taught by it": _adapted_and_taught,
    "hybrid, twice the tokens": _long,
    "teacher continued": lambda lab, seed: [_continued(lab, seed)],
    "teacher continued, twice the tokens": lambda lab, seed: [_continued(lab, seed, times=2)],
    "teacher continued a second time": _continued_again,
}
"""How each comes about: its models after each of its fits, the one in question last."""


def _trained(lab: Lab, name: str, train: Callable[[], list[Path]]) -> Row:
    """Tokens, held-out losses and scores of the last model that `train` trains or finds."""
    models = train()
    found = _held_out(lab, name, lambda: models[-1])
    tokens = round(sum(_metric(model, "tokens_seen") for model in models))
    losses = {"held-out loss": found["held-out loss"], "mixture": _metric(models[-1], "val/loss")}
    return {"tokens": tokens} | losses | found


def _metric(model: Path, name: str) -> float:
    """Return a number of the fit that made a model."""
    found = read_result(model.parent)
    assert found is not None
    return found["metrics"][name]["value"]


def _held_out(lab: Lab, name: str, find: Callable[[], Path]) -> Row:
    """Held-out loss of text and scores of the model that `find` trains or finds."""
    model = find()
    lab.check_time()
    with lab.claim(lab.run / "studies" / "held_out" / name):
        return {"held-out loss": lab.held_out(name, model)} | lab.score(model)


def _name(model: str, seed: int) -> str:
    return re.sub(r"\W+", "_", f"{model} {seed}")


def _hybrid(lab: Lab, stage: str, seed: int) -> Path:
    """Return a stage's model; the run's own has the first seed, others are trained here, of the same architecture."""
    if seed == 0:
        return lab.run / stage / "model"
    return _fit(lab, stage, stage, seed, {STUDENT: _hybrid(lab, "stage1", seed)} if stage == "stage2" else {})


def _adapted_stage1(lab: Lab, seed: int) -> Path:
    """Stage 1 from the continued teacher."""
    return _fit(lab, "adapted_stage1", "stage1", seed, {TEACHER: _continued(lab, seed)})


def _taught_stage2(lab: Lab, name: str, seed: int, start: Path) -> Path:
    """Stage 2 with the KL to the continued teacher."""
    return _fit(lab, name, "stage2_taught", seed, {STUDENT: start, TEACHER: _continued(lab, seed)})


def _continued(lab: Lab, seed: int, times: int = 1) -> Path:
    """Return the teacher trained as in stage 2, on as many tokens as the hybrid saw in both stages, or a multiple."""
    overrides = {STUDENT: lab.teacher(), RATE: CONTINUED_RATE, STEPS: times * sum(_steps(lab))}
    return _fit(lab, "continued" if times == 1 else f"continued_{times}_times", "stage2", seed, overrides)


def _steps(lab: Lab) -> tuple[int, int]:
    """Of the two stages."""
    first, second = (resolved_config(lab.fit_config(stage, stage, {})) for stage in HYBRIDS.values())
    return first["trainer"]["max_steps"], second["trainer"]["max_steps"]


def _fit(lab: Lab, name: str, stage: str, seed: int, overrides: Row) -> Path:
    """Trains a model with the files of a stage, once."""
    name = f"{name}_seed{seed}"
    lab.fit(name, stage, **{"seed_everything": seed} | overrides)
    return lab.run / "studies" / name / "model"
