"""Losses of rows, one per token, together with their gradients.

They serve objectives that hold one chunk of [tokens, vocabulary] at a time and need its gradient at once. Autograd does
not see them: the gradient is a result like the loss.
"""

import torch

from jetlit_kernels.checks import check_shape
from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.token_losses import reference


def kl_with_gradient(
    student: torch.Tensor,
    teacher: torch.Tensor,
    weights: torch.Tensor,
    gradient_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute KL(teacher ‖ student) of each row and its gradient with respect to the student's logits.

    Computed in float32 (float64 for float64 logits), whatever the logits' dtype.

    Args:
        student: logits [N, V].
        teacher: logits [N, V].
        weights: [N], what each row's gradient is multiplied by; the KL itself is not.
        gradient_dtype: dtype of the gradient; None computes none.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        The KL in nats, [N] in the dtype computed in, and weights · (softmax(student) − softmax(teacher)), [N, V].

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    _check(student, weights)
    check_shape("teacher", teacher, tuple(student.shape))
    if resolve_backend(backend, student) == "torch":
        return reference.kl_with_gradient(student, teacher, weights, gradient_dtype)
    from jetlit_kernels.token_losses import kernels

    return kernels.kl_with_gradient(student, teacher, weights, gradient_dtype)


def cross_entropy_with_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    gradient_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the cross entropy of each row and its gradient with respect to the logits.

    Args:
        logits: [N, V].
        labels: [N] integers from 0 to V − 1.
        weights: [N], what each row's gradient is multiplied by; the loss itself is not.
        gradient_dtype: as in `kl_with_gradient`.
        backend: as in `kl_with_gradient`.

    Returns:
        −log softmax(logits)[label] in nats, [N], and weights · (softmax(logits) − one-hot(label)), [N, V].

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    _check(logits, weights)
    check_shape("labels", labels, tuple(weights.shape))
    if resolve_backend(backend, logits) == "torch":
        return reference.cross_entropy_with_gradient(logits, labels, weights, gradient_dtype)
    from jetlit_kernels.token_losses import kernels

    return kernels.cross_entropy_with_gradient(logits, labels, weights, gradient_dtype)


def relative_error_with_gradient(
    student: torch.Tensor,
    teacher: torch.Tensor,
    weights: torch.Tensor,
    gradient_dtype: torch.dtype | None = None,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute |student − teacher|² / |teacher|² of each row and its gradient with respect to the student's row.

    Args:
        student: states [N, H].
        teacher: states [N, H].
        weights: [N], what each row's gradient is multiplied by; the error itself is not.
        gradient_dtype: as in `kl_with_gradient`.
        backend: as in `kl_with_gradient`.

    Returns:
        The errors, [N], and weights · 2 (student − teacher) / |teacher|², [N, H].

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    _check(student, weights)
    check_shape("teacher", teacher, tuple(student.shape))
    if resolve_backend(backend, student) == "torch":
        return reference.relative_error_with_gradient(student, teacher, weights, gradient_dtype)
    from jetlit_kernels.token_losses import kernels

    return kernels.relative_error_with_gradient(student, teacher, weights, gradient_dtype)


def _check(rows: torch.Tensor, weights: torch.Tensor) -> None:
    if rows.dim() != 2:
        raise ValueError(f"There must be one row per token, [N, V], not {tuple(rows.shape)}.")
    check_shape("weights", weights, (rows.shape[0],))
