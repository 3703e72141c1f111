"""Training of the once-for-all super network that the placement search explores."""

from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, SuperNetwork, freeze_all_but_mixers
from jetlit.objectives import run_in_lockstep
from jetlit.recipes.base import Recipe
from jetlit.training.teacher import FrozenTeacher, fit_to_teacher
from jetlit.values import Count, NonNegativeFloat, NonNegativeInt, Seed


class SuperNetworkTraining(Recipe):
    """Training of one random path a step through the layers' alternatives (paper, section 2: step 1).

    Every layer holds its full attention and the alternatives; only these token mixers learn, toward the frozen
    teacher. All processes train the same path. The losses are those of `Distillation`.

    Args:
        teacher: Folder or hub name of the teacher, or a loaded model, which is frozen in place.
        alternatives: Blocks that a layer may run in place of full attention; None is ["gla"].
        block_configs: Constructor arguments by block name.
        train_attention: Whether the full-attention paths learn too.
        even_budgets: Draw the number of full-attention layers of a path evenly instead of each layer by itself.
        feature_weight: Weight of the feature error in the objective.
        kl_weight: Weight of the KL in the objective.
        fit_tokens: Tokens to which new blocks' output projections are fitted before training; see `Distillation`.
        shard_teacher: Under FSDP2, spread the teacher's layers over processes too.
        optimizer: Makes the optimizer from parameter groups.
        scheduler: Makes the learning-rate schedule, which advances once a step; None keeps the rate.
        seed: Seed of paths and new weights. None takes that of `seed_everything`.
        chunk: Tokens whose logits are held at a time.
        activation_checkpointing: What the backward pass computes again: "mlp" (insides of MLPs), True (whole layers).
        compile: Compile norms, residuals, MLPs and attention's projections with torch.compile.
        reshard_after_forward: Under FSDP2, gather the weights of a layer for each pass instead of keeping them.

    Raises:
        UserError: A weight is negative, or both are zero.
    """

    teacher: FrozenTeacher

    def __init__(
        self,
        teacher: str | JetNemotronForCausalLM,
        alternatives: list[str] | None = None,
        block_configs: dict[str, dict[str, Any]] | None = None,
        train_attention: bool = True,
        even_budgets: bool = False,
        feature_weight: NonNegativeFloat = 1.0,
        kl_weight: NonNegativeFloat = 0.0,
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
        if min(feature_weight, kl_weight) < 0 or feature_weight + kl_weight == 0:
            raise UserError("feature_weight and kl_weight must not be negative, and one of them must be above zero.")
        self.teacher = FrozenTeacher(teacher, shard_teacher)
        self.alternatives = tuple(alternatives or ("gla",))
        self.block_configs = block_configs
        self.train_attention = train_attention
        self.even_budgets = even_budgets
        self.feature_weight = feature_weight
        self.kl_weight = kl_weight
        self.fit_tokens = fit_tokens

    def build(self) -> nn.Module:
        """Return the super network in float32 with trainable token mixers and all else frozen."""
        network = SuperNetwork(self.teacher.model, self.alternatives, self.block_configs).float()
        fit_to_teacher(network, self.teacher, self._trainer, self.fit_tokens)
        freeze_all_but_mixers(network.causal_lm)
        if not self.train_attention:
            network.freeze_attention()
        return network

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Sample this step's path; return the terms that have a weight, and their weighted sum as objective."""
        generator = self.generator("path", self.global_step)
        path = self.model.sample_active_subnet(generator, self.even_budgets)
        while not self.train_attention and set(path) == {"attn"}:  # nothing in it would learn
            path = self.model.sample_active_subnet(generator, self.even_budgets)
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
        """Return cross entropy, feature error and KL of a path that depends on the batch's number only."""
        self.model.sample_active_subnet(self.generator("held-out path", batch_idx), self.even_budgets)
        states = run_in_lockstep(self.model.model, self.teacher.model.model, input_ids)
        loss = self.cross_entropy(states.student_hidden, input_ids)
        return {"loss": loss, "feature": states.feature_error, "kl": self.kl(states)}
