"""Stage `placement`: which layers keep full attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit_data import load_tokenizer

from jetlit.blocks import is_attention
from jetlit.errors import UserError
from jetlit.files import claim_folder, digest, write_json
from jetlit.models import SuperNetwork
from jetlit.models.loading import pick_device
from jetlit.pipeline.candidates import warn_of_guesses
from jetlit.pipeline.report.figures import placement_figures
from jetlit.pipeline.report.style import save_all
from jetlit.pipeline.stage_config import StageConfig
from jetlit.results import Result, config_hash
from jetlit.search import placement as search
from jetlit.search.beam import Choices
from jetlit.search.evaluation import SubnetEvaluator
from jetlit.search.sharing import SharedEvaluator
from jetlit.tasks import Task, build_tasks, score_tasks
from jetlit.values import Count, Device, NonEmptyList, NonNegativeFloat, NonNegativeInt, Seed

# What the stage leaves in its folder, as patterns.
PLACEMENT_FILES = ("placement.json", "heatmap.png", "curve.png", "shared/*")


@dataclass
class PlacementConfig(StageConfig):
    """Find the layers that keep full attention: beam search over a trained super network (paper, section 2.2).

    Writes placement.json (an architecture, with scores beside it), heatmap.png and curve.png. Several processes may run
    this with one out_dir at a time, each with the same `workers`: they share the candidates.

    Attributes:
        tasks: what subnetworks are scored on, see `jetlit.tasks.build_task`.
        budget: the largest number of full-attention layers.
        run_dir: folder of the whole run.
        supernet: folder of the super network.
        out_dir: where the results go.
        weights: weights of the tasks in the combined objective; by default all 1.
        width: width of the beam.
        curve_budgets: numbers of full layers at which searched and uniform placement are compared; by default 1 to one
            more than the budget.
        linear: the super network's linear path to use; by default its first.
        sliding_window_budget: the largest number of sliding-window layers, which the multiple-choice tasks decide on.
        workers: number of processes that search together.
        device: "auto", "cpu" or "cuda".
        seed: kept in the result; the search itself draws nothing, the tasks have seeds of their own.
    """

    tasks: list[dict[str, Any]]
    budget: NonNegativeInt
    run_dir: str = "runs/quickstart"
    supernet: str = "${run_dir}/supernet/model"
    out_dir: str = "${run_dir}/placement"
    weights: dict[str, NonNegativeFloat] | None = None
    width: Count = 4
    curve_budgets: NonEmptyList[NonNegativeInt] | None = None
    linear: str | None = None
    sliding_window_budget: NonNegativeInt = 0
    workers: Count = 1
    device: Device = "auto"
    seed: Seed = 0


def search_placement(config: PlacementConfig) -> Result:
    """Search the placement; the decision names the layers, placement.json holds all that was found."""
    network = SuperNetwork.from_pretrained(config.supernet).to(pick_device(config.device))
    tasks = build_tasks(config.tasks, load_tokenizer(config.supernet))
    layers = len(network.choices_per_layer)
    linear = _linear_path(network, config.linear)
    pattern_tasks = [task for task in tasks if task.objective_name == "-loss"]
    if config.sliding_window_budget:
        _check_sliding_windows(network, pattern_tasks)
    evaluator = _evaluator(config, network, tasks)
    patterns = _evaluator(config, network, pattern_tasks) if config.sliding_window_budget else None
    full = _scores(network, ["attn"] * layers, tasks)
    guessed = warn_of_guesses("The super network with full attention everywhere", full)

    def errors(choices: Choices) -> dict[str, float]:
        found = _scores(network, list(choices), tasks)
        # The objective is the metric of this name, or the same negated.
        return {task.name: found.get(f"{task.name}/{task.objective_name.lstrip('-')}_stderr", 0.0) for task in tasks}

    weights = config.weights or {task.name: 1.0 for task in tasks}
    sizes = config.curve_budgets
    if sizes is None:
        sizes = list(range(1, min(config.budget + 1, layers) + 1))
    found = search.search_placement(
        evaluator,
        layers,
        linear=linear,
        budget=config.budget,
        width=config.width,
        weights=weights,
        curve_budgets=sizes,
        sliding_window_budget=config.sliding_window_budget,
        pattern_score=patterns,
        errors=errors,
    )
    outcome = found.as_dict()
    used = [name for name in dict.fromkeys(found.choices) if name != "attn"]
    units = {"-loss": "-loss, nats/token"}
    placement = {
        "layer_types": list(found.choices),
        "block_configs": {name: network.config.block_config(name) for name in used},
        "budget": config.budget,
        "layer_evaluations": evaluator.counts.done,
        "naive_layer_evaluations": evaluator.counts.naive,
        "objectives": {task.name: units.get(task.objective_name, task.objective_name) for task in tasks},
        **{key: value for key, value in outcome.items() if key != "choices"},
    }
    claim_folder(config.out_dir)
    write_json(Path(config.out_dir) / "placement.json", placement)
    save_all(placement_figures(placement), Path(config.out_dir))
    metrics: dict[str, Any] = {"value": found.value, "value_stderr": found.value_stderr}
    for task in tasks:
        metrics[f"{task.name}/placement"] = found.scores[task.name]
        metrics[f"{task.name}/all_linear"] = found.linear_scores[task.name]
        metrics[f"{task.name}/all_full"] = found.full_scores[task.name]
    for prefix, scorer in {"layer_evaluations": evaluator, "sliding_windows": patterns}.items():
        if scorer is not None:
            metrics |= {f"{prefix}/{name}": count for name, count in vars(scorer.counts).items()}
    values = config.values() | {"weights": weights, "curve_budgets": sizes, "linear": linear}
    decision = {key: outcome[key] for key in ("full_attention", "sliding_window", "choices", "value_stderr")}
    decision["not_distinguishable_from"] = [
        f"layers {' and '.join(map(str, equal))}" if equal else "no layer" for equal in found.indistinguishable
    ]
    decision["teacher_at_chance"] = guessed
    return Result("placement", values, metrics, decision, config.seed)


def _evaluator(config: PlacementConfig, network: SuperNetwork, tasks: list[Task]) -> SubnetEvaluator | SharedEvaluator:
    evaluator = SubnetEvaluator(network, tasks)
    if config.workers == 1:
        return evaluator
    claim_folder(config.out_dir, search=config_hash(config.values()))
    key: dict[str, Any] = {"supernet": config.supernet, "weights": digest(config.supernet), "tasks": config.tasks}
    key |= {"run_dir": config.run_dir, "scored": [task.name for task in tasks]}
    return SharedEvaluator(evaluator, Path(config.out_dir) / "shared", key, config.workers)


def _scores(network: SuperNetwork, choices: list[str], tasks: list[Task]) -> dict[str, float]:
    network.set_active_subnet(choices)
    return score_tasks(network, tasks)


def _linear_path(network: SuperNetwork, name: str | None) -> str:
    offered = [choice for choice in network.choices_per_layer[0] if not is_attention(choice)]
    if not offered or name not in (None, *offered):
        raise UserError(f"The super network has no linear path {name!r}: it offers {', '.join(offered) or 'none'}.")
    return name or offered[0]


def _check_sliding_windows(network: SuperNetwork, pattern_tasks: list[Task]) -> None:
    if "swa" not in network.choices_per_layer[0]:
        raise UserError("The super network offers no sliding window: train it with swa among its alternatives.")
    if not pattern_tasks:
        raise UserError("Multiple choice decides on sliding windows: add a multiple_choice or continuation task.")
