"""A frozen teacher, and the start of a student from it."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import nn

from jetlit.models import JetNemotronForCausalLM, SuperNetwork, fit_outputs, load_model


class FrozenTeacher:
    """A teacher outside of the module tree: no checkpoint, optimizer or parameter count includes it.

    Args:
        source: Folder or hub name, or a loaded model, which is frozen in place.
        shard: Whether its layers are spread over processes where the student's are.
    """

    def __init__(self, source: str | JetNemotronForCausalLM, shard: bool = False) -> None:
        self.source = source
        self.shard = shard

    @cached_property
    def model(self) -> JetNemotronForCausalLM:
        """The model in evaluation mode and without gradients, loaded at first use."""
        return load_model(self.source).eval().requires_grad_(False)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move the teacher beside its student; None keeps its dtype."""
        nn.Module.to(self.model, device=device, dtype=dtype)  # transformers' own is not typed as a method


def fit_to_teacher(
    student: JetNemotronForCausalLM | SuperNetwork, teacher: FrozenTeacher, trainer: Any, tokens: int
) -> None:
    """Fit the output projections of new linear blocks to the teacher on the first training data (`fit_outputs`).

    Both models move to the trainer's device. Nothing is done outside of a fit, without a data module, or if the weights
    come from a checkpoint. `tokens` is over all processes, rounded up to whole sequences, at least one of each process.
    """
    if not tokens or trainer is None or trainer.datamodule is None or trainer.ckpt_path is not None:
        return
    device = trainer.strategy.root_device
    nn.Module.to(student, device)
    teacher.to(device)
    batches: list[torch.Tensor] = []
    missing = 1
    for batch in trainer.datamodule.train_dataloader():
        ids = batch["input_ids"]
        if not batches:
            sampler = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
            rank, processes = sampler["rank"], sampler["num_replicas"]  # each takes every Nth sequence
            missing = len(range(rank, max(math.ceil(tokens / ids.shape[1]), processes), processes))
        batches.append(ids[:missing].to(device))  # cutting the last batch keeps the start independent of its size
        missing -= len(batches[-1])
        if missing == 0:
            break
    fit_outputs(student, teacher.model.model, batches)
