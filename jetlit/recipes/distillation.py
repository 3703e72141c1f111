"""Stage 1, and each candidate of the block and hardware searches: a hybrid learns from its teacher."""

from typing import Any

import torch
from torch import nn

from jetlit.errors import UserError
from jetlit.models import Architecture, freeze_all_but_mixers, hybridise, load_teacher
from jetlit.recipes.teaching import TaughtRecipe


class Distillation(TaughtRecipe):
    """Training of the token mixers, everything else frozen (paper, section 2: stage 1).

    Args:
        teacher: see `TaughtRecipe`.
        architecture: JSON file naming every layer's block; the new blocks start from the teacher's attention.
        student: folder of a hybrid to go on with instead of one made from `architecture`.
        feature_weight: see `TaughtRecipe`.
        kl_weight: see `TaughtRecipe`.
        kwargs: see `Recipe`.

    Raises:
        UserError: neither or both of architecture and student are given.
    """

    def __init__(
        self,
        teacher: str,
        architecture: str | None = None,
        student: str | None = None,
        feature_weight: float = 0.0,
        kl_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher, feature_weight, kl_weight, **kwargs)
        if (architecture is None) == (student is None):
            raise UserError("Distillation needs an architecture or a student, not both: leave one of them out.")
        self.architecture = architecture
        self.student = student

    def build(self) -> nn.Module:
        """The hybrid, only its token mixers trainable, all of it in float32."""
        teacher = self.load_frozen_teacher()
        if self.student is not None:
            hybrid = load_teacher(self.student, torch.float32)
        else:
            assert self.architecture is not None
            hybrid = hybridise(teacher, Architecture.load(self.architecture)).float()
        freeze_all_but_mixers(hybrid)
        return hybrid
