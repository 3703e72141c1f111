"""Stage 1, and each candidate of the block and hardware searches: a hybrid learns from its teacher."""

from typing import Any

import torch
from torch import nn

from jetlit.errors import UserError
from jetlit.models import Architecture, freeze_all_but_mixers, hybridize, load_model
from jetlit.recipes.mixer_training import MixerTraining


class Distillation(MixerTraining):
    """Training of the token mixers, everything else frozen (paper, section 2: stage 1).

    Args:
        teacher: see `TaughtRecipe`.
        architecture: JSON file naming every layer's block; the new blocks start from the teacher's attention.
        student: folder of a hybrid to go on with. Beside an architecture it gives the layers where it has the wanted
            linear block, the teacher the others.
        inherit: whether linear blocks start from the teacher's attention or from random projections.
        feature_weight: see `MixerTraining`.
        kl_weight: see `MixerTraining`.
        kwargs: see `MixerTraining`.

    Raises:
        UserError: neither architecture nor student is given.
    """

    def __init__(
        self,
        teacher: str,
        architecture: str | None = None,
        student: str | None = None,
        inherit: bool = True,
        feature_weight: float = 1.0,
        kl_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher, feature_weight, kl_weight, **kwargs)
        if architecture is None and student is None:
            raise UserError("Distillation needs an architecture, a student or both: name one of them.")
        self.architecture = architecture
        self.student = student
        self.inherit = inherit

    def build(self) -> nn.Module:
        """The hybrid, only its token mixers trainable, all of it in float32."""
        teacher = self.load_frozen_teacher()
        student = None if self.student is None else load_model(self.student, torch.float32)
        if self.architecture is not None:
            hybrid = hybridize(teacher, Architecture.load(self.architecture), student, self.inherit).float()
            if student is None:
                self.fit_to_teacher(hybrid)
        else:
            assert student is not None
            hybrid = student
        freeze_all_but_mixers(hybrid)
        return hybrid
