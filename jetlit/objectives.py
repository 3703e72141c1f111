"""Training objectives: feature distillation, and KL and cross entropy over chunks of tokens.

A vocabulary of 151,936 makes [tokens, vocabulary] the largest tensor of a training step by far: 5 GB in float32 for
8,192 tokens. The chunked objectives hold `chunk` rows of it at a time and compute the gradients in the forward pass, so
that nothing of that size is kept, and a frozen head costs no weight gradient. All values are in nats per token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
"""The label that counts in no objective, as in `torch.nn.functional.cross_entropy`."""


def feature_distillation(student_states: list[Tensor], teacher_states: list[Tensor]) -> Tensor:
    """Mean over layers of the relative squared error between the student's hidden states and the teacher's.

    The feature-distillation loss of the super network (paper, section 2, step 1). See `relative_error` for a layer's
    own term.

    Args:
        student_states: one [B, T, H] tensor a layer.
        teacher_states: as many, of the same shapes; no gradient flows into them.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(student_states) != len(teacher_states) or not student_states:
        raise ValueError(
            f"Feature distillation needs as many student states as teacher states, at least one; "
            f"got {len(student_states)} and {len(teacher_states)}."
        )
    terms = [relative_error(student, teacher) for student, teacher in zip(student_states, teacher_states)]
    return torch.stack(terms).mean()


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over tokens of |student - teacher|² / |teacher|².

    Relative to each token's own norm, since pre-trained decoders give a few tokens states hundreds of times larger
    than the others', which would otherwise be all that counts.

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


def chunked_cross_entropy(hidden: Tensor, head_weight: Tensor, labels: Tensor, chunk: int = 1024) -> Tensor:
    """Next-token cross entropy, in nats per token, never holding more than `chunk` rows of logits.

    Args:
        hidden: [B, T, H], the decoder's output after its final norm.
        head_weight: [V, H]; gets a gradient only if it requires one.
        labels: [B, T] token ids, not shifted (position t predicts label t + 1); -100 is ignored.
        chunk: tokens whose logits are held at a time.

    Returns:
        A scalar (float32, or float64 for float64 hidden states): the mean over the labels that count; 0 if none does.
    """
    hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    hidden, head_weight = _matmul_operands(hidden, head_weight)
    shares = _shares(labels != IGNORED, _accumulation_type(hidden))
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
    """KL(teacher ‖ student) between next-token distributions, in nats per token, over chunks of tokens.

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
    student = _matmul_operands(student_hidden.flatten(0, 1), student_head)
    teacher = _matmul_operands(teacher_hidden.detach().flatten(0, 1), teacher_head.detach())
    shares = _shares(labels_mask.flatten(), _accumulation_type(student[0]))
    return _ChunkedKL.apply(*student, *teacher, shares, chunk, _needs_grad(*student))


def _shares(counted: Tensor, dtype: torch.dtype) -> Tensor:
    """Each row's weight in the mean, [N]: made on the device, so that no step waits for a count to reach the host."""
    return counted.to(dtype) / counted.sum().clamp_min(1)


def _needs_grad(hidden: Tensor, weight: Tensor) -> tuple[bool, bool]:
    """Which of the two the backward pass will ask for; inside `Function.forward` grad mode is always off."""
    enabled = torch.is_grad_enabled()
    return enabled and hidden.requires_grad, enabled and weight.requires_grad


def _matmul_operands(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Bring both to the type they are multiplied in: autocast's where it is on, else the hidden states'."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


def _accumulation_type(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """[N, H], [V, H] -> [N, V] in the accumulation type, not rounded to 16 bits on the way where the device can."""
    accumulate = _accumulation_type(hidden)
    if hidden.is_cuda and hidden.dtype != accumulate:
        return torch.mm(hidden, weight.T, out_dtype=accumulate)
    return (hidden @ weight.T).to(accumulate)


class _Gradients:
    """Gradients of a sum over chunks, gathered while its value is computed.

    Args:
        hidden: [N, H], the rows the sum runs over.
        weight: [V, H].
        needs_grad: whether hidden and weight get one; the weight's is accumulated in float32.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, needs_grad: tuple[bool, bool]) -> None:
        self.weight = weight
        self.of_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        accumulate = _accumulation_type(weight)
        self.of_weight = torch.zeros_like(weight, dtype=accumulate) if needs_grad[1] else None
        self.wanted = any(needs_grad)

    def add(self, rows: slice, hidden: Tensor, logits_gradient: Tensor) -> None:
        """Take in one chunk: hidden [n, H] at `rows`, logits_gradient [n, V]."""
        gradient = logits_gradient.to(hidden.dtype)
        if self.of_hidden is not None:
            torch.mm(gradient, self.weight, out=self.of_hidden[rows])
        if self.of_weight is not None:
            self.of_weight += gradient.T @ hidden

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        of_weight = self.of_weight
        return self.of_hidden, None if of_weight is None else of_weight.to(self.weight.dtype)


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
        total = shares.new_zeros(())
        gradients = _Gradients(hidden, head, needs_grad)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(labels), chunk):
                log_probs = _logits(hidden[rows], head).log_softmax(-1)
                targets = labels[rows, None]
                total -= (log_probs.gather(1, targets)[:, 0] * shares[rows]).sum()
                if gradients.wanted:
                    gradient = log_probs.exp_()
                    gradient.scatter_add_(1, targets, -torch.ones_like(targets, dtype=gradient.dtype))
                    gradients.add(rows, hidden[rows], gradient.mul_(shares[rows, None]))
        ctx.save_for_backward(*gradients.tensors())
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
        gradients = _Gradients(student, student_head, needs_grad)
        with torch.autocast(student.device.type, enabled=False):
            for rows in _chunks(len(student), chunk):
                log_student = _logits(student[rows], student_head).log_softmax(-1)
                log_teacher = _logits(teacher[rows], teacher_head).to(shares.dtype).log_softmax(-1)
                probs = log_teacher.exp()
                total += (log_teacher.sub_(log_student).mul_(probs).sum(-1) * shares[rows]).sum()
                if gradients.wanted:
                    gradient = log_student.exp_().sub_(probs)
                    gradients.add(rows, student[rows], gradient.mul_(shares[rows, None]))
        ctx.save_for_backward(*gradients.tensors())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        of_student, of_head = ctx.saved_tensors
        return _scaled(of_student, scale), _scaled(of_head, scale), None, None, None, None, None


class _RelativeError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, needs_grad: bool) -> Tensor:
        accumulate = _accumulation_type(student)
        difference = student.to(accumulate) - teacher.to(accumulate)
        floor = torch.finfo(accumulate).tiny
        norms = teacher.to(accumulate).square().sum(-1, keepdim=True).clamp_min(floor)
        tokens = norms.numel()
        value = (difference.square().sum(-1, keepdim=True) / norms).sum() / tokens
        # The gradient alone is kept, in the states' own type: half of what autograd would keep in bf16.
        gradient = difference.mul_(2 / tokens).div_(norms).to(student.dtype) if needs_grad else None
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return _scaled(gradient, scale), None, None


def _scaled(gradient: Tensor | None, scale: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * scale.to(gradient.dtype)
