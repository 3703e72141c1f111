"""`jetlit search ranking`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from jetlit.cli.candidate_fit import CandidateFit
from jetlit.files import write_json
from jetlit.models import Architecture
from jetlit.models.loading import read_config
from jetlit.results import metric, read_result, write_result
from jetlit.search.ranking import rank_layers


def search_ranking(
    fit_configs: list[Path_fr],
    budgets: list[int],
    run_dir: str = "runs/quickstart",
    teacher: str = "${run_dir}/teacher/model",
    out_dir: str = "${run_dir}/ranking",
    linear: str = "gla",
    block_config: dict[str, Any] | None = None,
    distil_overrides: dict[str, Any] | None = None,
    restore_overrides: dict[str, Any] | None = None,
    seed: int | None = None,
    hash: str | None = None,
) -> None:
    """Ranks layers by restoring their attention one at a time: the baseline that placement search is compared with.

    A model without attention is distilled, then, from it, one model a layer with that layer's attention put back
    (Li et al., arXiv:2512.20569). Writes ranking.json, an architecture full_K.json for each budget K, and result.json.

    Args:
        fit_configs: YAML files of the distillations.
        budgets: numbers of full-attention layers to write architectures for.
        run_dir: folder of the whole run.
        teacher: folder of the teacher.
        out_dir: where the results go, inside run_dir.
        linear: block of all layers without attention.
        block_config: that block's arguments.
        distil_overrides: options of `jetlit fit` for the model without attention, by dotted name.
        restore_overrides: the same for the models with one layer restored.
        seed: of every fit; None leaves the files' own.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    folder = Path(out_dir)
    layers = read_config(teacher).num_hidden_layers
    base = folder / "all_linear"
    Architecture([linear] * layers, {linear: block_config} if block_config else {}).save(base / "architecture.json")
    distil = CandidateFit(run_dir, fit_configs, distil_overrides or {}, None, 0, seed)
    distil.train(base / "architecture.json", base)
    restored = {"model.init_args.student": str(base / "model")} | (restore_overrides or {})
    restore = CandidateFit(run_dir, fit_configs, restored, None, 0, seed)
    settings: dict[str, Any] = {"distil": distil.settings(), "restore": restore.settings(), "run_dir": run_dir}
    ranking = rank_layers(layers, linear, folder, restore.train, settings, block_config or {})
    for budget in budgets:
        ranking.placement(budget, linear).save(folder / f"full_{budget}.json")
    write_json(folder / "ranking.json", asdict(ranking))
    first = read_result(base)
    assert first is not None
    spent = first["metrics"]["tokens_seen"]["value"] + ranking.tokens
    write_result(
        folder,
        stage="ranking",
        config=settings | {"linear": linear, "block_config": block_config, "budgets": budgets, "out_dir": out_dir},
        metrics={"search_tokens": metric(spent, "tokens"), "all_linear/held_out_kl": first["metrics"]["val/kl"]},
        decision={"order": list(ranking.order)},
        seed=settings["restore"]["seed_everything"],
        seconds=time.monotonic() - begun,
        hash=hash,
    )
    print(f"Layers, the most useful first: {', '.join(map(str, ranking.order))}.")
