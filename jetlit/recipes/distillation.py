"""Stage 1, and every candidate of the block and hardware searches: a hybrid learns from its teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW

from jetlit.errors import UserError
from jetlit.models import Architecture, JetNemotronForCausalLM, freeze_all_but_mixers, hybridize, load_model
from jetlit.objectives import run_in_lockstep
from jetlit.recipes.base import Recipe
from jetlit.training.teacher import FrozenTeacher, fit_to_teacher
from jetlit.values import Count, NonNegativeFloat, NonNegativeInt, Seed


class Distillation(Recipe):
    """Training of a hybrid's token mixers toward a frozen teacher (paper, section 2: stage 1).

    The objective is `feature_weight` · feature + `kl_weight` · kl. `feature` is the mean relative squared error
    between the outputs of the layers, `kl` is KL(teacher ‖ student) in nats per token. Held out, both are logged, and
    `loss`, the student's cross entropy in nats per token.

    Args:
        teacher: Folder or hub name of the teacher, or a loaded model, which is frozen in place.
        architecture: The block of each layer: a JSON file, an `Architecture`, or in YAML a mapping of `layer_types`
            and `block_configs`. New blocks start from the teacher's attention.
        student: Folder, hub name or loaded model of a hybrid to continue. With an architecture beside it, layers that
            already have the right linear block come from the student and all others from the teacher.
        inherit: Whether linear blocks start from the teacher's attention or from random projections.
        feature_weight: Weight of the feature error in the objective.
        kl_weight: Weight of the KL in the objective.
        fit_tokens: Tokens, over all processes, to which the output projections of new linear blocks are fitted before
            training (`jetlit.models.fit_outputs`). 0 fits nothing, as do plain data loaders.
        shard_teacher: Under FSDP2, spread the teacher's layers over processes too.
        optimizer: Makes the optimizer from parameter groups.
        scheduler: Makes the learning-rate schedule, which advances once a step; None keeps the rate.
        seed: Seed of new weights. None takes that of `seed_everything`.
        chunk: Tokens whose logits are held at a time.
        activation_checkpointing: What the backward pass computes again: "mlp" (insides of MLPs), True (whole layers).
        compile: Compile norms, residuals, MLPs and attention's projections with torch.compile.
        reshard_after_forward: Under FSDP2, gather the weights of a layer for each pass instead of keeping them.

    Raises:
        UserError: There is neither an architecture nor a student, a weight is negative, or both are zero.
    """

    teacher: FrozenTeacher

    def __init__(
        self,
        teacher: str | JetNemotronForCausalLM,
        architecture: str | Architecture | Path | None = None,  # Path last: jsonargparse takes a mapping for it
        student: str | JetNemotronForCausalLM | None = None,
        inherit: bool = True,
        feature_weight: NonNegativeFloat = 1.0,
        kl_weight: NonNegativeFloat = 1.0,
        fit_tokens: NonNegativeInt = 32_768,
        shard_teacher: bool = False,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: Seed | None = None,
        chunk: Count = 1024,
        activation_checkpointing: bool | Literal["mlp"] = False,
        compile: bool = False,
        reshard_after_forward: bool = False,
    ) -> None:
        super().__init__(optimizer, scheduler, seed, chunk, activation_checkpointing, compile, reshard_after_forward)
        if architecture is None and student is None:
            raise UserError("Distillation needs an architecture, a student or both: name one of them.")
        if min(feature_weight, kl_weight) < 0 or feature_weight + kl_weight == 0:
            raise UserError("feature_weight and kl_weight must not be negative, and one of them must be above zero.")
        self.teacher = FrozenTeacher(teacher, shard_teacher)
        self.architecture = architecture
        self.student = student
        self.inherit = inherit
        self.feature_weight = feature_weight
        self.kl_weight = kl_weight
        self.fit_tokens = fit_tokens

    def build(self) -> nn.Module:
        """Return the hybrid in float32 with trainable token mixers and all else frozen."""
        student = None if self.student is None else load_model(self.student, torch.float32)
        if self.architecture is None:
            assert student is not None
            hybrid = student
        else:
            hybrid = hybridize(self.teacher.model, _load(self.architecture), student, self.inherit).float()
            if student is None:
                fit_to_teacher(hybrid, self.teacher, self._trainer, self.fit_tokens)
        freeze_all_but_mixers(hybrid)
        return hybrid

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the terms that have a weight, and their weighted sum as objective."""
        states = run_in_lockstep(self.model.model, self.teacher.model.model, input_ids, self.feature_weight > 0)
        losses = {"objective": torch.zeros((), device=input_ids.device)}
        if self.feature_weight > 0:
            losses["feature"] = states.feature_error
            losses["objective"] = losses["objective"] + self.feature_weight * losses["feature"]
        if self.kl_weight > 0:
            losses["kl"] = self.kl(states)
            losses["objective"] = losses["objective"] + self.kl_weight * losses["kl"]
        return losses

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return cross entropy, feature error and KL."""
        states = run_in_lockstep(self.model.model, self.teacher.model.model, input_ids)
        loss = self.cross_entropy(states.student_hidden, input_ids)
        return {"loss": loss, "feature": states.feature_error, "kl": self.kl(states)}


def _load(architecture: str | Architecture | Path) -> Architecture:
    """Return an architecture from a file, an object, or the mapping that a checkpoint holds."""
    if isinstance(architecture, Mapping):
        return Architecture(**architecture)
    return architecture if isinstance(architecture, Architecture) else Architecture.load(architecture)
