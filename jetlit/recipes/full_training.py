"""Stage 2: training of every weight of the hybrid."""

from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, load_model
from jetlit.objectives import run_in_lockstep
from jetlit.recipes.base import Recipe
from jetlit.training.teacher import FrozenTeacher
from jetlit.values import Count, NonNegativeFloat, Seed


class FullTraining(Recipe):
    """Next-token training of all weights of a model from stage 1 (paper, section 2: stage 2, which has no teacher).

    The objective is `loss`, the cross entropy in nats per token, and with a teacher `loss` + `kl_weight` · `kl`, where
    `kl` is KL(teacher ‖ student) in nats per token. Held out, `loss` is logged, and with a teacher `kl` and `feature`,
    the mean relative squared error between the outputs of the layers.

    Args:
        student: Folder or hub name of the model to train, or a loaded model, which is trained in place.
        teacher: The same for a frozen teacher with as many layers and the same vocabulary. None trains on text only.
        kl_weight: Weight of the KL in the objective; of no effect without a teacher.
        shard_teacher: Under FSDP2, spread the teacher's layers over processes too.
        optimizer: Makes the optimizer from parameter groups.
        scheduler: Makes the learning-rate schedule, which advances once a step; None keeps the rate.
        seed: Seed of random choices. None takes that of `seed_everything`.
        chunk: Tokens whose logits are held at a time.
        activation_checkpointing: What the backward pass computes again: "mlp" (insides of MLPs), True (whole layers).
        compile: Compile norms, residuals, MLPs and attention's projections with torch.compile.
        reshard_after_forward: Under FSDP2, gather the weights of a layer for each pass instead of keeping them.

    Raises:
        UserError: There is a teacher and kl_weight is not above zero.
    """

    def __init__(
        self,
        student: str | JetNemotronForCausalLM,
        teacher: str | JetNemotronForCausalLM | None = None,
        kl_weight: NonNegativeFloat = 1.0,
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
        if teacher is not None and kl_weight <= 0:
            raise UserError("kl_weight must be above zero: FullTraining toward the text alone takes no teacher.")
        self.student = student
        self.teacher = None if teacher is None else FrozenTeacher(teacher, shard_teacher)
        self.kl_weight = kl_weight

    def build(self) -> nn.Module:
        """Return the student in float32 with every parameter trainable."""
        return load_model(self.student, torch.float32).requires_grad_(True)

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the cross entropy, the KL if there is a teacher, and the objective."""
        if self.teacher is None:
            loss = self.next_token_loss(input_ids)
            return {"objective": loss, "loss": loss}
        states = run_in_lockstep(self.model.model, self.teacher.model.model, input_ids, features=False)
        loss, kl = self.cross_entropy(states.student_hidden, input_ids), self.kl(states)
        return {"objective": loss + self.kl_weight * kl, "loss": loss, "kl": kl}

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the cross entropy, and with a teacher the feature error and the KL."""
        if self.teacher is None:
            return {"loss": self.next_token_loss(input_ids)}
        states = run_in_lockstep(self.model.model, self.teacher.model.model, input_ids)
        loss = self.cross_entropy(states.student_hidden, input_ids)
        return {"loss": loss, "feature": states.feature_error, "kl": self.kl(states)}
