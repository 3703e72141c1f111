"""Plain-PyTorch losses of rows with their gradients."""

import torch

from jetlit_kernels.dtypes import compute_dtype

Losses = tuple[torch.Tensor, torch.Tensor | None]


@torch.no_grad()
def kl_with_gradient(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> Losses:
    """Compute `jetlit_kernels.kl_with_gradient`."""
    dtype = compute_dtype(student)
    log_student, log_teacher = student.to(dtype).log_softmax(-1), teacher.to(dtype).log_softmax(-1)
    probs = log_teacher.exp()
    losses = log_teacher.sub_(log_student).mul_(probs).sum(-1)
    if gradient_dtype is None:
        return losses, None
    return losses, log_student.exp_().sub_(probs).mul_(weights[:, None]).to(gradient_dtype)


@torch.no_grad()
def cross_entropy_with_gradient(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> Losses:
    """Compute `jetlit_kernels.cross_entropy_with_gradient`."""
    log_probs = logits.to(compute_dtype(logits)).log_softmax(-1)
    targets = labels[:, None]
    losses = -log_probs.gather(1, targets)[:, 0]
    if gradient_dtype is None:
        return losses, None
    gradient = log_probs.exp_()
    gradient.scatter_add_(1, targets, -torch.ones_like(targets, dtype=gradient.dtype))
    return losses, gradient.mul_(weights[:, None]).to(gradient_dtype)


@torch.no_grad()
def relative_error_with_gradient(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> Losses:
    """Compute `jetlit_kernels.relative_error_with_gradient`."""
    dtype = compute_dtype(student)
    difference = student.to(dtype) - teacher.to(dtype)
    squares = teacher.to(dtype).square().sum(-1).clamp_min(torch.finfo(dtype).tiny)
    losses = difference.square().sum(-1) / squares
    if gradient_dtype is None:
        return losses, None
    return losses, difference.mul_((2 * weights / squares)[:, None]).to(gradient_dtype)
