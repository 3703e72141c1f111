"""`jetlit search placement`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jetlit.cli.scoring import build_tasks
from jetlit.errors import UserError
from jetlit.files import write_json
from jetlit.models import SuperNetwork
from jetlit.models.loading import pick_device
from jetlit.pipeline.report.searches import placement_figures, save_figures
from jetlit.results import metric, write_result
from jetlit.search.evaluation import SubnetEvaluator
from jetlit.search.placement import search_placement as search
from jetlit.search.sharing import SharedEvaluator
from jetlit.tasks import Task


def search_placement(
    tasks: list[dict[str, Any]],
    budget: int,
    run_dir: str = "runs/quickstart",
    supernet: str = "${run_dir}/supernet/model",
    out_dir: str = "${run_dir}/placement",
    weights: dict[str, float] | None = None,
    width: int = 4,
    curve_budgets: list[int] | None = None,
    linear: str | None = None,
    sliding_window_budget: int = 0,
    workers: int = 1,
    device: str = "auto",
    seed: int = 0,
    hash: str | None = None,
) -> None:
    """Finds the layers that keep full attention: beam search over a trained super network (paper, section 2.2).

    Writes placement.json (an architecture, with scores beside it), heatmap.png, curve.png and result.json. Several
    processes may run this with one out_dir at a time, each with the same `workers`: they share the candidates.

    Args:
        tasks: what subnetworks are scored on, see `jetlit.tasks.build_task`.
        budget: the largest number of full-attention layers.
        run_dir: folder of the whole run.
        supernet: folder of the super network.
        out_dir: where the results go.
        weights: of the tasks in the combined objective; by default all 1.
        width: of the beam.
        curve_budgets: numbers of full layers at which searched and uniform placement are compared; by default 1 to
            one more than the budget.
        linear: the super network's linear path to use; by default its first.
        sliding_window_budget: the largest number of sliding-window layers, judged by the multiple-choice tasks alone.
        workers: processes that search together.
        device: "auto", "cpu" or "cuda".
        seed: kept in the result; the search itself draws nothing, the tasks have seeds of their own.
        hash: what the caller recognises the result by.
    """
    begun = time.monotonic()
    network = SuperNetwork.from_pretrained(supernet).to(pick_device(device))
    built = build_tasks(tasks, supernet)
    layers = len(network.choices_per_layer)
    linear = _linear_path(network, linear)
    pattern_tasks = [task for task in built if task.objective_name == "-loss"]
    if sliding_window_budget:
        _check_sliding_windows(network, pattern_tasks)
    # Weights trained anew in the same place are told by their file's time.
    key = {"supernet": supernet, "written": SuperNetwork.written(supernet), "tasks": tasks, "run_dir": run_dir}

    def shared(judges: list[Task]) -> SubnetEvaluator | SharedEvaluator:
        evaluator = SubnetEvaluator(network, judges)
        names = {"judges": [task.name for task in judges]}
        return SharedEvaluator(evaluator, Path(out_dir) / "shared", key | names, workers) if workers > 1 else evaluator

    evaluator, patterns = shared(built), shared(pattern_tasks) if sliding_window_budget else None
    weights = weights or {task.name: 1.0 for task in built}
    sizes = curve_budgets if curve_budgets is not None else list(range(1, min(budget + 1, layers) + 1))
    found = search(
        evaluator,
        layers,
        linear=linear,
        budget=budget,
        width=width,
        weights=weights,
        curve_budgets=sizes,
        sliding_window_budget=sliding_window_budget,
        pattern_score=patterns,
    )
    folder = Path(out_dir)
    units = {task.name: _unit(task) for task in built}
    outcome = found.as_dict()
    used = [name for name in dict.fromkeys(found.choices) if name != "attn"]
    placement = {
        "layer_types": list(found.choices),
        "block_configs": {name: network.config.block_config(name) for name in used},
        "budget": budget,
        "layer_evaluations": evaluator.counts.done,
        "naive_layer_evaluations": evaluator.counts.naive,
        "objectives": units,
        **{key: value for key, value in outcome.items() if key != "choices"},
    }
    write_json(folder / "placement.json", placement)
    save_figures(placement_figures(placement), folder)
    metrics = {"value": metric(found.value, "part of full attention's gain")}
    for name, unit in units.items():
        metrics[f"{name}/placement"] = metric(found.scores[name], unit)
        metrics[f"{name}/all_linear"] = metric(found.linear_scores[name], unit)
        metrics[f"{name}/all_full"] = metric(found.full_scores[name], unit)
    for prefix, judge in {"layer_evaluations": evaluator, "sliding_windows": patterns}.items():
        for name, count in vars(judge.counts).items() if judge else ():
            metrics[f"{prefix}/{name}"] = metric(count, "layers x batches")
    config = {
        "run_dir": run_dir,
        "supernet": supernet,
        "out_dir": out_dir,
        "tasks": tasks,
        "weights": weights,
        "budget": budget,
        "width": width,
        "curve_budgets": sizes,
        "linear": linear,
        "sliding_window_budget": sliding_window_budget,
    }
    decision = {key: outcome[key] for key in ("full_attention", "sliding_window", "choices")}
    write_result(
        folder,
        stage="placement",
        config=config,
        metrics=metrics,
        decision=decision,
        seed=seed,
        seconds=time.monotonic() - begun,
        hash=hash,
    )
    kept = ", ".join(map(str, found.full_attention)) or "none"
    done, naive = evaluator.counts.done, evaluator.counts.naive
    print(f"Full attention stays in layers {kept}; {done} layer evaluations instead of {naive} ({naive / done:.1f}x).")


def _linear_path(network: SuperNetwork, name: str | None) -> str:
    offered = [choice for choice in network.choices_per_layer[0] if choice not in ("attn", "swa")]
    if not offered or name not in (None, *offered):
        raise UserError(f"The super network has no linear path {name!r}: it offers {', '.join(offered) or 'none'}.")
    return name or offered[0]


def _check_sliding_windows(network: SuperNetwork, pattern_tasks: list[Task]) -> None:
    if "swa" not in network.choices_per_layer[0]:
        raise UserError("The super network offers no sliding window: train it with swa among its alternatives.")
    if not pattern_tasks:
        raise UserError("Sliding windows are judged by multiple choice: add a multiple_choice or continuation task.")


def _unit(task: Task) -> str:
    return "-loss, nats/token" if task.objective_name == "-loss" else task.objective_name
