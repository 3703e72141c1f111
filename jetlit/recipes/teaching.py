"""What the super network and stage 1 share: a student that learns from a frozen teacher."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, SuperNetwork, fit_outputs, load_teacher
from jetlit.models.layers import DecoderLayer
from jetlit.objectives import chunked_kl
from jetlit.recipes.lockstep import FrozenTeacher, lock_step
from jetlit.recipes.precision import computes_in_bfloat16
from jetlit.recipes.recipe import Recipe
from jetlit.recipes.sharding import shard_teacher_layers


class TaughtRecipe(Recipe):
    """A student trained towards a frozen teacher, by features and by logits.

    Logs `objective` (the weighted sum that is minimised), `feature` (mean relative squared error of the layers'
    outputs, no unit), `kl` (KL(teacher ‖ student), nats per token) and `loss` (the student's cross entropy, nats per
    token): in training those with a weight, held out all of them.

    Args:
        teacher: folder or hub name of the frozen teacher (Llama, Qwen2, Qwen3 or this project's own checkpoint).
        feature_weight: of the feature error in the objective.
        kl_weight: of the KL in the objective.
        fit_tokens: how many tokens of the first training sequences, over all processes, the new linear blocks' output
            projections are fitted to before training (`jetlit.models.fit_outputs`), rounded up to whole sequences of
            each process; 0 leaves what they inherit.
        shard_teacher: spread the teacher's layers over processes too, where the student's are; otherwise every process
            holds all of it.
        kwargs: see `Recipe`.

    Raises:
        UserError: both weights are zero, or one is negative.
    """

    def __init__(
        self,
        teacher: str,
        feature_weight: float,
        kl_weight: float,
        fit_tokens: int = 32_768,
        shard_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(feature_weight, kl_weight) < 0 or feature_weight + kl_weight == 0:
            raise UserError("feature_weight and kl_weight must not be negative, and one of them must be above zero.")
        self.teacher_path = teacher
        self.feature_weight = feature_weight
        self.kl_weight = kl_weight
        self.fit_tokens = fit_tokens
        self.shard_teacher = shard_teacher
        self.teacher: FrozenTeacher | None = None

    def load_frozen_teacher(self) -> JetNemotronForCausalLM:
        """Load the teacher and keep it, frozen; returns its model for the student to be made from."""
        self.teacher = FrozenTeacher(load_teacher(self.teacher_path))
        return self.teacher.model

    def fit_to_teacher(self, student: JetNemotronForCausalLM | SuperNetwork) -> None:
        """Fit new linear blocks' output projections, unless the weights come from a checkpoint anyway."""
        data: Any = self._trainer and self._trainer.datamodule  # type: ignore[attr-defined]
        if not self.fit_tokens or data is None or self._trainer.ckpt_path is not None:  # type: ignore[union-attr]
            return
        assert self.teacher is not None
        device = self.trainer.strategy.root_device
        nn.Module.to(student, device)  # transformers' own is not typed as a method
        self.teacher.to(device)
        fit_outputs(student, self.teacher.model.model, list(self._first_batches(data, device)))

    def _first_batches(self, data: LightningDataModule, device: torch.device) -> Iterator[Tensor]:
        """This process's first training sequences; the last batch is cut, so that the start has nothing of its size."""
        taken = 0
        for batch in data.train_dataloader():
            ids = batch["input_ids"]
            wanted = math.ceil(self.fit_tokens / self.trainer.world_size / ids.shape[1])
            yield ids[: wanted - taken].to(device)
            taken += len(ids)
            if taken >= wanted:
                return

    def layers_that_run(self) -> list[DecoderLayer]:
        """The student's and the teacher's."""
        assert self.teacher is not None
        return [*super().layers_that_run(), *self.teacher.model.model.layers]

    def shard(self, mesh: DeviceMesh) -> None:
        """Spread the student over processes, and the teacher if so set."""
        super().shard(mesh)
        if self.shard_teacher:
            assert self.teacher is not None
            shard_teacher_layers(self.teacher.model.model, mesh)

    def on_fit_start(self) -> None:
        """Put the teacher on the student's device, in the type it computes in."""
        super().on_fit_start()
        self._place_teacher()

    def on_validation_start(self) -> None:
        """As for training."""
        self._place_teacher()

    def on_test_start(self) -> None:
        """As for training."""
        self._place_teacher()

    def _place_teacher(self) -> None:
        if self.teacher is not None:
            # Autocast would cast a frozen float32 matrix anew in every step.
            dtype = torch.bfloat16 if computes_in_bfloat16(self.trainer) else None
            self.teacher.to(self.device, dtype)

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """The weighted terms and their sum."""
        losses = self._terms(input_ids, feature=self.feature_weight > 0, kl=self.kl_weight > 0)[1]
        weights = {"feature": self.feature_weight, "kl": self.kl_weight}
        objective = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"objective": objective, **losses}

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Feature error, KL and cross entropy of one batch."""
        hidden, losses = self._terms(input_ids, feature=True, kl=True)
        return {"loss": self.cross_entropy(hidden, input_ids), **losses}

    def _terms(self, input_ids: Tensor, feature: bool, kl: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the student's final hidden states [B, T, H] and the terms asked for."""
        assert self.teacher is not None
        teacher = self.teacher.model
        states = lock_step(self.model.model, teacher.model, input_ids, features=feature)
        losses = {}
        if states.feature_error is not None:
            losses["feature"] = states.feature_error
        if kl:
            heads = self.model.lm_head.weight, teacher.lm_head.weight
            losses["kl"] = chunked_kl(states.student_hidden, states.teacher_hidden, *heads, chunk=self.chunk)
        return states.student_hidden, losses
