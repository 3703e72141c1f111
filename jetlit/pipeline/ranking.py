"""`jetlit search ranking`: the baseline that placement search is compared with."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jetlit.files import write_json
from jetlit.models import Architecture
from jetlit.models.loading import read_config
from jetlit.pipeline.candidates import CANDIDATE_FILES, CandidateFits
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result
from jetlit.search import ranking
from jetlit.search.sharing import evaluate_candidates
from jetlit.values import NonEmptyList, NonNegativeInt, Seed


@dataclass
class RankingConfig(StageConfig):
    """Rank layers by restoring their attention one at a time.

    A model without attention is distilled, then, from it, one model a layer with that layer's attention put back
    (Li et al., arXiv:2512.20569). Writes ranking.json and an architecture full_K.json for each budget K. Several
    processes may run this with one out_dir at a time: they share the layers.

    Attributes:
        fit_configs: YAML files of the distillations.
        budgets: numbers of full-attention layers to write architectures for.
        run_dir: folder of the whole run.
        teacher: folder of the teacher.
        out_dir: where the results go, inside run_dir.
        linear: block of all layers without attention.
        block_config: arguments of that block.
        distil_overrides: options of `jetlit fit` for the model without attention, by dotted name.
        restore_overrides: the same for the models with one layer restored.
        seed: seed of every fit; None leaves the files' own.
    """

    fit_configs: NonEmptyList[str]
    budgets: NonEmptyList[NonNegativeInt]
    run_dir: str = "runs/quickstart"
    teacher: str = "${run_dir}/teacher/model"
    out_dir: str = "${run_dir}/ranking"
    linear: str = "gla"
    block_config: dict[str, Any] | None = None
    distil_overrides: dict[str, Any] | None = None
    restore_overrides: dict[str, Any] | None = None
    seed: Seed | None = None


def rank_layers(config: RankingConfig) -> Result:
    """Rank the layers; the decision is their order, the most useful first."""
    folder, block_config = Path(config.out_dir), config.block_config or {}
    layers = read_config(config.teacher).num_hidden_layers
    distil = CandidateFits(config.run_dir, config.fit_configs, config.distil_overrides or {}, config.seed)
    start = {"model.init_args.student": str(folder / "distilled" / "all_linear" / "model")}
    restore = CandidateFits(config.run_dir, config.fit_configs, start | (config.restore_overrides or {}), config.seed)
    trained = restore.settings()
    settings = {"distil": distil.settings(), "restore": trained, "run_dir": config.run_dir}
    bare = Architecture([config.linear] * layers, {config.linear: block_config} if block_config else {})
    shared = partial(evaluate_candidates, settings=settings, metric=ranking.RANKED_BY, made=CANDIDATE_FILES)
    first = shared({"all_linear": bare}, folder / "distilled", distil.train, lambda _: {})["all_linear"]
    evaluate = partial(shared, folder=folder / "layers", train=restore.train, measure=_remove_weights)
    found = ranking.rank_layers(layers, config.linear, block_config, evaluate)
    for budget in config.budgets:
        found.placement(budget, config.linear).save(folder / f"full_{budget}.json")
    write_json(folder / "ranking.json", asdict(found))
    return Result(
        "ranking",
        config.values() | settings,
        {"search_tokens": first["tokens_seen"] + found.tokens, "all_linear/held_out_kl": first["held_out_kl"]},
        {"order": list(found.order)},
        trained["seed_everything"],
    )


def _remove_weights(folder: Path) -> dict[str, Any]:
    """Remove the weights: the fit has measured the KL, and thirty models would fill a disk."""
    for path in (folder / "model", folder / "checkpoints"):
        shutil.rmtree(path, ignore_errors=True)
    return {}
