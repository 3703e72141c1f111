"""What all recipes with a teacher share: a student, and the frozen teacher that runs beside it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from jetlit.models import JetNemotronForCausalLM, load_model
from jetlit.models.decoder_layer import DecoderLayer
from jetlit.objectives import chunked_kl
from jetlit.recipes.lockstep import FrozenTeacher, lock_step
from jetlit.recipes.precision import computes_in_bfloat16
from jetlit.recipes.recipe import Recipe
from jetlit.recipes.sharding import shard_teacher_layers


class TaughtRecipe(Recipe):
    """A student beside a frozen teacher; a subclass says how it is built and which terms its objective has.

    Held out it logs `feature` (mean relative squared error of the layers' outputs, no unit), `kl` (KL(teacher ‖
    student), nats per token) and `loss` (the student's cross entropy, nats per token).

    Args:
        teacher: folder or hub name of the frozen teacher (Llama, Qwen2, Qwen3 or this project's own checkpoint).
        shard_teacher: spread the teacher's layers over processes too, where the student's are; otherwise every process
            holds all of it.
        kwargs: see `Recipe`.
    """

    def __init__(self, teacher: str, shard_teacher: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher_path = teacher
        self.shard_teacher = shard_teacher
        self.teacher: FrozenTeacher | None = None

    def load_frozen_teacher(self) -> JetNemotronForCausalLM:
        """Load the teacher and keep it, frozen; returns its model for the student to be made from."""
        self.teacher = FrozenTeacher(load_model(self.teacher_path))
        return self.teacher.model

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

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Feature error, KL and cross entropy of one batch."""
        hidden, losses = self.terms(input_ids, feature=True, kl=True)
        return {"loss": self.cross_entropy(hidden, input_ids), **losses}

    def terms(self, input_ids: Tensor, feature: bool, kl: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the student's final hidden states [B, T, H] and the terms asked for, scalars by name."""
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
