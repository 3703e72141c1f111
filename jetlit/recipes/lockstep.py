"""A frozen teacher run beside its student, layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jetlit.models import JetNemotronForCausalLM, JetNemotronModel
from jetlit.objectives import relative_error


class FrozenTeacher:
    """Holds a teacher outside of the module tree, so that no checkpoint, optimizer or parameter count includes it.

    Args:
        model: is put in evaluation mode and its gradients are switched off.
    """

    def __init__(self, model: JetNemotronForCausalLM) -> None:
        self.model = model.eval().requires_grad_(False)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move the teacher beside its student; None keeps its type."""
        self.model.to(device=device, dtype=dtype)


@dataclass
class LockStep:
    """What one pass through both models gives.

    Attributes:
        student_hidden: [B, T, H] after the student's final norm.
        teacher_hidden: [B, T, H] after the teacher's final norm, without gradient.
        feature_error: mean over layers of the relative squared error between their outputs, or None if not asked for.
    """

    student_hidden: Tensor
    teacher_hidden: Tensor
    feature_error: Tensor | None


def lock_step(
    student: JetNemotronModel, teacher: JetNemotronModel, input_ids: Tensor, features: bool = True
) -> LockStep:
    """Run both models over a batch one layer at a time, so that the teacher's states need not be stored.

    Args:
        student: of as many layers as the teacher if features are asked for.
        teacher: runs without gradients.
        input_ids: [B, T].
        features: whether to compare every layer's output.

    Returns:
        Final hidden states of both and the feature error.
    """
    student_hidden = student.embed(input_ids)
    student_inputs = student.layer_inputs(student_hidden)
    with torch.no_grad():
        teacher_hidden = teacher.embed(input_ids)
        teacher_inputs = teacher.layer_inputs(teacher_hidden)
    errors = []
    for student_layer, teacher_layer in zip(student.layers, teacher.layers, strict=True):
        student_hidden = student_layer(student_hidden, student_inputs)
        with torch.no_grad():
            teacher_hidden = teacher_layer(teacher_hidden, teacher_inputs)
        if features:
            errors.append(relative_error(student_hidden, teacher_hidden))
    with torch.no_grad():
        teacher_hidden = teacher.norm(teacher_hidden)
    feature_error = torch.stack(errors).mean() if features else None
    return LockStep(student.norm(student_hidden), teacher_hidden, feature_error)
