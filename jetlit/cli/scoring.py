"""Loading models for scoring, and their scores on tasks: shared by the verbs that judge models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetlit_data.tokenizer import load_tokenizer

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, load_model
from jetlit.results import metric
from jetlit.search.candidates import Metrics
from jetlit.tasks import Task, build_task, evaluate_task


def build_tasks(specs: Sequence[dict[str, Any]], tokenizer_folder: str | Path) -> list[Task]:
    """Builds tasks with the tokenizer of a folder.

    Raises:
        UserError: there is no task, or two of one name.
    """
    if not specs:
        raise UserError("No task is named: list at least one under tasks, such as {kind: recall}.")
    tokenizer = load_tokenizer(str(tokenizer_folder))
    tasks = [build_task(dict(spec), tokenizer) for spec in specs]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"Tasks need names of their own, but there are {', '.join(names)}: set name on them.")
    return tasks


def task_scores(model: JetNemotronForCausalLM, tasks: Sequence[Task]) -> Metrics:
    """Scores a model: every metric of every task, its chance level, and "accuracy", the mean over tasks."""
    scores: Metrics = {}
    accuracies = []
    for task in tasks:
        found = evaluate_task(model, task).metrics
        for name, value in found.items():
            scores[f"{task.name}/{name}"] = metric(value, _unit(name))
        scores[f"{task.name}/chance"] = metric(task.chance, "fraction")
        accuracies.append(found["accuracy"])
    return scores | {"accuracy": metric(sum(accuracies) / len(accuracies), "fraction")}


def _unit(name: str) -> str:
    if "loss" in name:
        return "nats/token"
    return "fraction" if "accuracy" in name else "count"


def measure_candidate(folder: Path, tasks: Sequence[Task], context: int, device: str = "auto") -> Metrics:
    """Scores a trained candidate and counts its parameters and the state bytes of one sequence.

    Args:
        folder: of the model.
        tasks: to score on.
        context: tokens of the sequence whose state is counted.
        device: to score on.
    """
    model = load_model(folder, device=device)
    dtype = model.lm_head.weight.dtype
    state = sum(layer.self_attn.state_bytes(1, context, dtype) for layer in model.model.layers)
    linear = sum(
        layer.self_attn.state_bytes(1, context, dtype)
        for layer, kind in zip(model.model.layers, model.config.layer_types or (), strict=True)
        if kind not in ("attn", "swa")
    )
    return task_scores(model, tasks) | {
        "parameters": metric(sum(parameter.numel() for parameter in model.parameters()), "parameters"),
        "state_bytes": metric(state, "B"),
        "linear_state_bytes": metric(linear, "B"),
    }
