"""Training objectives: relative error of hidden states, and KL and cross entropy over chunks of tokens.

A vocabulary of 151,936 makes [tokens, vocabulary] the largest tensor of a training step by far: 5 GB in float32 for
8,192 tokens. The chunked objectives hold `chunk` rows of it at a time and compute the gradients in the forward pass, so
that nothing of that size is kept, and a frozen head costs no weight gradient. Logits are float32 (as the products
accumulate them), their gradients have the dtype of the products. Losses are in nats per token.
"""

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
    """The states of a student and its teacher on one batch.

    Attributes:
        student_hidden: [B, T, H] after the student's final norm.
        teacher_hidden: [B, T, H] after the teacher's final norm, without gradient.
        feature_error: Scalar, the mean over layers of the `relative_error` between the layers' outputs; 0 if it was
            not asked for.
    """

    student_hidden: Tensor
    teacher_hidden: Tensor
    feature_error: Tensor


def run_in_lockstep(
    student: JetNemotronModel, teacher: JetNemotronModel, input_ids: Tensor, features: bool = True
) -> Lockstep:
    """Run a student and its frozen teacher over a batch layer by layer, so that no teacher state is stored.

    Args:
        student: With as many layers as the teacher.
        teacher: Runs without gradients.
        input_ids: [B, T].
        features: Whether to compare the outputs of each layer.
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
    needs_grad = _needs_grad(hidden, head_weight)
    return _ChunkedCrossEntropy.apply(hidden, head_weight, labels.clamp_min(0), shares, chunk, needs_grad)


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
    shares = _shares(labels_mask.flatten(), _accumulation_dtype(student))
    needs_grad = _needs_grad(student, student_head)
    return _ChunkedKL.apply(student, student_head, teacher, teacher_head.detach(), shares, chunk, needs_grad)


def _shares(counted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each row's weight in the mean, [N], on the device, so that no step waits for a count on the host."""
    return counted.to(dtype) / counted.sum().clamp_min(1)


def _needs_grad(hidden: Tensor, weight: Tensor) -> tuple[bool, bool]:
    """Say which of the two needs a gradient; inside `Function.forward` grad mode is always off."""
    enabled = torch.is_grad_enabled()
    return enabled and hidden.requires_grad, enabled and weight.requires_grad


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


class _Gradients:
    """Gradients of a sum over chunks, accumulated while its value is computed.

    Args:
        hidden: [N, H], the rows the sum runs over.
        weight: [V, H], in the dtype of the products.
        needs_grad: whether hidden and weight get one; the weight's is accumulated in float32.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, needs_grad: tuple[bool, bool]) -> None:
        self.weight = weight
        self.of_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        accumulate = _accumulation_dtype(weight)
        self.of_weight = torch.zeros_like(weight, dtype=accumulate) if needs_grad[1] else None
        self.logits_dtype = hidden.dtype if any(needs_grad) else None

    def add(self, rows: slice, hidden: Tensor, of_logits: Tensor | None) -> None:
        """Add one chunk: hidden [n, H] at `rows`, the logits' gradient [n, V] in `logits_dtype`."""
        if of_logits is None:
            return
        if self.of_hidden is not None:
            torch.mm(of_logits, self.weight, out=self.of_hidden[rows])
        if self.of_weight is not None:
            _add_product(self.of_weight, of_logits.T, hidden)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, on CUDA without rounding to 16 bits."""
    if left.is_cuda and left.dtype != total.dtype:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


def _chunks(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        shares: Tensor,
        chunk: int,
        needs_grad: tuple[bool, bool],
    ) -> Tensor:
        total, weight = shares.new_zeros(()), head.to(hidden.dtype)
        gradients = _Gradients(hidden, weight, needs_grad)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(labels), chunk):
                logits = _logits(hidden[rows], weight)
                losses, of_logits = cross_entropy_with_gradient(
                    logits, labels[rows], shares[rows], gradients.logits_dtype
                )
                total += (losses * shares[rows]).sum()
                gradients.add(rows, hidden[rows], of_logits)
        _save(ctx, gradients, head)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_head = ctx.saved_tensors
        return _scaled(of_hidden, scale), _scaled(of_head, scale), None, None, None, None


class _ChunkedKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        student_head: Tensor,
        teacher: Tensor,
        teacher_head: Tensor,
        shares: Tensor,
        chunk: int,
        needs_grad: tuple[bool, bool],
    ) -> Tensor:
        total = shares.new_zeros(())
        weight, teacher_weight = student_head.to(student.dtype), teacher_head.to(teacher.dtype)
        gradients = _Gradients(student, weight, needs_grad)
        with torch.autocast(student.device.type, enabled=False):
            for rows in _chunks(len(student), chunk):
                losses, of_logits = kl_with_gradient(
                    _logits(student[rows], weight),
                    _logits(teacher[rows], teacher_weight),
                    shares[rows],
                    gradients.logits_dtype,
                )
                total += (losses * shares[rows]).sum()
                gradients.add(rows, student[rows], of_logits)
        _save(ctx, gradients, student_head)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        of_student, of_head = ctx.saved_tensors
        return _scaled(of_student, scale), _scaled(of_head, scale), None, None, None, None, None


def _save(ctx: Any, gradients: _Gradients, head: Tensor) -> None:
    """Save the gradients for the backward pass, the head's in the head's dtype."""
    of_weight = gradients.of_weight
    ctx.save_for_backward(gradients.of_hidden, None if of_weight is None else of_weight.to(head.dtype))


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
