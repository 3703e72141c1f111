"""Stage 2: training every weight of the hybrid."""

from typing import Any

import torch
from torch import nn

from jetlit.models import load_model
from jetlit.recipes.language_modelling import LanguageModelling


class FullTraining(LanguageModelling):
    """Next-token training of all weights of a model that stage 1 has made (paper, section 2: stage 2).

    Args:
        student: folder or hub name of the model to go on with.
        kwargs: see `Recipe`.
    """

    def __init__(self, student: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student = student

    def build(self) -> nn.Module:
        """The student, every parameter trainable and in float32."""
        return load_model(self.student, torch.float32).requires_grad_(True)
