"""Scores and sizes of the models that searches, evaluation and report compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetlit_data import load_tokenizer

from jetlit.blocks import is_attention
from jetlit.models import load_model
from jetlit.search.selection import Metrics
from jetlit.tasks import Task, build_tasks, score_tasks


def tasks_for(specs: Sequence[Mapping[str, Any]], model: str | Path) -> list[Task]:
    """Build tasks with the tokenizer of a model's folder; see `jetlit.tasks.build_tasks`."""
    return build_tasks(specs, load_tokenizer(str(model)))


def measure_candidate(folder: Path, tasks: Sequence[Task], context: int, device: str = "auto") -> Metrics:
    """Score a trained candidate, and count its parameters and the state bytes of one sequence.

    Args:
        folder: the candidate's, with its model.
        tasks: the tasks to score on.
        context: tokens of the sequence whose state is counted.
        device: the device to score on.
    """
    model = load_model(folder / "model", device=device)
    dtype = model.lm_head.weight.dtype
    state = [layer.self_attn.state_bytes(1, context, dtype) for layer in model.model.layers]
    linear = [size for size, kind in zip(state, model.config.layer_types or (), strict=True) if not is_attention(kind)]
    return score_tasks(model, tasks) | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes": sum(state),
        "linear_state_bytes": sum(linear),
    }
