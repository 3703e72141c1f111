"""Loading models for scoring, and their scores on tasks: shared by the verbs that judge models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, load_teacher
from jetlit.models.export import load_tokenizer
from jetlit.results import metric
from jetlit.search.candidates import Metrics
from jetlit.tasks import Task, build_task, evaluate_task


def pick_device(name: str) -> torch.device:
    """Returns the device of that name; "auto" is the GPU where there is one.

    Raises:
        UserError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device {name!r}: use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("This machine has no CUDA device: use --device cpu.")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """Returns the type of that name, e.g. "bfloat16".

    Raises:
        UserError: there is no such floating-point type.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"There is no floating-point type {name!r}: use float32, bfloat16 or float16.")
    return dtype


def load_model(path: str | Path, device: str = "auto", dtype: str | None = None) -> JetNemotronForCausalLM:
    """Loads a checkpoint for inference."""
    model = load_teacher(str(path), None if dtype is None else pick_dtype(dtype))
    model.to(device=pick_device(device))  # type: ignore[call-arg]
    return model.eval()


def build_tasks(specs: Sequence[dict[str, Any]], tokenizer_folder: str | Path) -> list[Task]:
    """Builds tasks with the tokenizer of a folder.

    Raises:
        UserError: there is no task, or two of one name.
    """
    if not specs:
        raise UserError("No task is named: list at least one under tasks, such as {kind: recall}.")
    tokenizer = load_tokenizer(tokenizer_folder)
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
    model = load_model(folder, device)
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
