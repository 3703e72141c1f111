"""Training objectives: relative error of hidden states, and KL and cross entropy over chunks of tokens.

A vocabulary of 151,936 makes [tokens, vocabulary] the largest tensor of a training step by far: 5 GB in float32 for
8,192 tokens. The chunked objectives hold `chunk` rows of it at a time and compute the gradients in the forward pass, so
that nothing of that size is kept, and a frozen head costs no weight gradient. Logits are float32 (as the products
accumulate them), their gradients have the dtype of the products. Losses are in nats per token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jetlit_kernels import cross_entropy_with_gradient, kl_with_gradient, relative_error_with_gradient
from torch import Tensor
from torch.autograd.function import once_differentiable

from jetlit.models import JetNemotronModel

IGNORED = -100
"""The label that counts in no objective, as in `torch.nn.functional.cross_entropy`."""


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over tokens of |student - teacher|² / |teacher|².

    Averaged over layers, this is the feature-distillation loss of the super network (paper, section 2, step 1). Each
    token counts relative to its own norm, because pre-trained decoders give a few tokens states hundreds of times
    larger than the others', which would otherwise dominate.

    Args:
        student: [B, T, H], any float type.
        teacher: [B, T, H]; no gradient flows into it.

    Returns:
        A float32 scalar (float64 for float64 states).

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Student and teacher states must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    needs_grad = torch.is_grad_enabled() and student.requires_grad
    return _RelativeError.apply(student, teacher.detach(), needs_grad)


@dataclass(frozen=True)
class Lockstep:
    """The states of a student and its teacher on one batch, [B, T, H], after their final norms."""

    student_hidden: Tensor
    teacher_hidden: Tensor  # without gradient
    feature_error: Tensor  # scalar, the mean over layers of the `relative_error` between the layers' outputs, or 0


def run_in_lockstep(
    student: JetNemotronModel, teacher: JetNemotronModel, input_ids: Tensor, features: bool = True
) -> Lockstep:
    """Run a student and its frozen teacher over tokens [B, T] layer by layer, so that no teacher state is stored.

    Both have as many layers. `features` asks for the `feature_error`.
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
    feature_error = torch.stack(errors).mean() if features else student_hidden.new_zeros(())
    return Lockstep(student.norm(student_hidden), teacher_hidden, feature_error)


def chunked_cross_entropy(hidden: Tensor, head_weight: Tensor, labels: Tensor, chunk: int = 1024) -> Tensor:
    """Return the next-token cross entropy, in nats per token, never holding more than `chunk` rows of logits.

    Args:
        hidden: [B, T, H], the decoder's output after its final norm.
        head_weight: [V, H]; gets a gradient only if it requires one.
        labels: [B, T] token ids, not shifted (position t predicts label t + 1); -100 is ignored.
        chunk: tokens whose logits are held at a time.

    Returns:
        A scalar (float32, or float64 for float64 hidden states): the mean over the labels that count; 0 if none does.
    """
    hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    hidden = hidden.to(_product_dtype(hidden))
    shares = _shares(labels != IGNORED, _accumulation_dtype(hidden))
    labels = labels.clamp_min(0)

    def losses(logits: Tensor, rows: slice, dtype: torch.dtype | None) -> tuple[Tensor, Any]:
        return cross_entropy_with_gradient(logits, labels[rows], shares[rows], dtype)

    return _chunked(losses, hidden, head_weight, shares, chunk)


def chunked_kl(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_head: Tensor,
    teacher_head: Tensor,
    labels_mask: Tensor | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Return KL(teacher ‖ student) between next-token distributions, in nats per token, over chunks of tokens.

    Args:
        student_hidden: [B, T, H], after the final norm.
        teacher_hidden: [B, T, H'], after the teacher's final norm; no gradient flows into it.
        student_head: [V, H]; gets a gradient only if it requires one.
        teacher_head: [V, H'].
        labels_mask: [B, T] bool, the positions that count; None: all.
        chunk: tokens whose logits are held at a time.

    Returns:
        A scalar (float32, or float64 for float64 hidden states): the mean over the positions that count; 0 if none.

    Raises:
        ValueError: the two heads' vocabularies differ.
    """
    if student_head.shape[0] != teacher_head.shape[0]:
        raise ValueError(
            f"The student predicts {student_head.shape[0]} tokens and the teacher {teacher_head.shape[0]}: "
            "distillation needs one vocabulary."
        )
    if labels_mask is None:
        labels_mask = torch.ones(student_hidden.shape[:2], dtype=torch.bool, device=student_hidden.device)
    student = student_hidden.flatten(0, 1).to(_product_dtype(student_hidden))
    teacher = teacher_hidden.detach().flatten(0, 1).to(_product_dtype(teacher_hidden))
    teacher_weight = teacher_head.detach().to(teacher.dtype)
    shares = _shares(labels_mask.flatten(), _accumulation_dtype(student))

    def losses(logits: Tensor, rows: slice, dtype: torch.dtype | None) -> tuple[Tensor, Any]:
        return kl_with_gradient(logits, _logits(teacher[rows], teacher_weight), shares[rows], dtype)

    return _chunked(losses, student, student_head, shares, chunk)


def _shares(counted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each row's weight in the mean, [N], on the device, so that no step waits for a count on the host."""
    return counted.to(dtype) / counted.sum().clamp_min(1)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the head's product: autocast's if enabled, else the hidden states'."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _accumulation_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """[N, H], [V, H] -> [N, V] in the accumulation dtype, on CUDA without rounding to 16 bits."""
    accumulate = _accumulation_dtype(hidden)
    if hidden.is_cuda and hidden.dtype != accumulate:
        return torch.mm(hidden, weight.T, out_dtype=accumulate)
    return (hidden @ weight.T).to(accumulate)


# Takes a chunk's logits [n, V], its rows and the gradient's dtype (None: no gradient); returns each row's loss [n] and
# the gradient of their weighted sum [n, V].
_Losses = Callable[[Tensor, slice, torch.dtype | None], tuple[Tensor, Any]]


def _chunked(losses: _Losses, hidden: Tensor, head: Tensor, shares: Tensor, chunk: int) -> Tensor:
    """Sum the losses of all rows of hidden [N, H], weighted by shares [N]."""
    enabled = torch.is_grad_enabled()  # inside `Function.forward` it never is
    needs_grad = enabled and hidden.requires_grad, enabled and head.requires_grad
    return _Chunked.apply(losses, hidden, head, shares, chunk, needs_grad)


class _Chunked(torch.autograd.Function):
    """`_chunked`, whose gradients are computed together with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        losses: _Losses,
        hidden: Tensor,
        head: Tensor,
        shares: Tensor,
        chunk: int,
        needs_grad: tuple[bool, bool],
    ) -> Tensor:
        total, weight = shares.new_zeros(()), head.to(hidden.dtype)
        dtype = hidden.dtype if any(needs_grad) else None
        of_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        of_weight = torch.zeros_like(weight, dtype=shares.dtype) if needs_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows = slice(start, start + chunk)
                values, of_logits = losses(_logits(hidden[rows], weight), rows, dtype)
                total += (values * shares[rows]).sum()
                if of_hidden is not None:
                    torch.mm(of_logits, weight, out=of_hidden[rows])
                if of_weight is not None:
                    _add_product(of_weight, of_logits.T, hidden[rows])
        ctx.save_for_backward(of_hidden, None if of_weight is None else of_weight.to(head.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_head = ctx.saved_tensors
        return None, _scaled(of_hidden, scale), _scaled(of_head, scale), None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, on CUDA without rounding to 16 bits."""
    if left.is_cuda and left.dtype != total.dtype:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


class _RelativeError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, needs_grad: bool) -> Tensor:
        rows = student.flatten(0, -2), teacher.flatten(0, -2)
        tokens = len(rows[0])
        shares = torch.full((tokens,), 1 / tokens, dtype=_accumulation_dtype(student), device=student.device)
        # Only the gradient is kept, in the states' dtype: half of what autograd would keep in bf16.
        errors, gradient = relative_error_with_gradient(*rows, shares, student.dtype if needs_grad else None)
        # Not a product of vectors, which autocast would round to 16 bits.
        value = (errors * shares).sum()
        gradient = None if gradient is None else gradient.view_as(student)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return _scaled(gradient, scale), None, None


def _scaled(gradient: Tensor | None, scale: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * scale.to(gradient.dtype)
