"""Triton losses of rows with their gradients: two readings of a row, the second only for the gradient.

A row of 151,936 logits fits no register file, so a program walks it in blocks: first with a running maximum and
running sums, from which the loss follows, then once more to write the gradient. No atomics: results repeat bit by bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import power_of_two

BLOCK = 4096
WARPS = 8
# Finite, so that a lane without a logit never meets inf − inf.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def kl_kernel(
    student, teacher, weights, losses, gradient, V, stride_s, stride_t, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Treat one row: Σ p (t − s) − log Σ eᵗ + log Σ eˢ, the three sums relative to running maxima."""
    row = tl.program_id(0).to(tl.int64)
    student += row * stride_s
    teacher += row * stride_t
    lane = tl.arange(0, BLOCK)
    top_s = LOWEST
    top_t = LOWEST
    sum_s = 0.0
    sum_t = 0.0
    difference = 0.0
    for start in range(0, V, BLOCK):
        mask = start + lane < V
        s = tl.load(student + start + lane, mask=mask, other=LOWEST).to(tl.float32)
        t = tl.load(teacher + start + lane, mask=mask, other=LOWEST).to(tl.float32)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(tl.exp(s - new_s), axis=0)
        rescale = tl.exp(top_t - new_t)
        mass = tl.exp(t - new_t)
        sum_t = sum_t * rescale + tl.sum(mass, axis=0)
        difference = difference * rescale + tl.sum(mass * (t - s), axis=0)
        top_s = new_s
        top_t = new_t
    loss = difference / sum_t - (top_t - top_s) - (tl.log(sum_t) - tl.log(sum_s))
    tl.store(losses + row, loss)
    if GRADIENT:
        weight = tl.load(weights + row).to(tl.float32)
        of_student = weight / sum_s
        of_teacher = weight / sum_t
        gradient += row * V
        for start in range(0, V, BLOCK):
            mask = start + lane < V
            s = tl.load(student + start + lane, mask=mask, other=LOWEST).to(tl.float32)
            t = tl.load(teacher + start + lane, mask=mask, other=LOWEST).to(tl.float32)
            d = tl.exp(s - top_s) * of_student - tl.exp(t - top_t) * of_teacher
            tl.store(gradient + start + lane, d.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def cross_entropy_kernel(
    logits, labels, weights, losses, gradient, V, stride, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Treat one row: log Σ eˣ − x[label]."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    lane = tl.arange(0, BLOCK)
    label = tl.load(labels + row)
    top = LOWEST
    total = 0.0
    for start in range(0, V, BLOCK):
        x = tl.load(logits + start + lane, mask=start + lane < V, other=LOWEST).to(tl.float32)
        new = tl.maximum(top, tl.max(x, axis=0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(x - new), axis=0)
        top = new
    tl.store(losses + row, top - tl.load(logits + label).to(tl.float32) + tl.log(total))
    if GRADIENT:
        weight = tl.load(weights + row).to(tl.float32)
        scale = weight / total
        gradient += row * V
        for start in range(0, V, BLOCK):
            mask = start + lane < V
            x = tl.load(logits + start + lane, mask=mask, other=LOWEST).to(tl.float32)
            d = tl.exp(x - top) * scale - tl.where(start + lane == label, weight, 0.0)
            tl.store(gradient + start + lane, d.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def relative_error_kernel(
    student, teacher, weights, losses, gradient, H, stride_s, stride_t, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Treat one row: |s − t|² / |t|²."""
    row = tl.program_id(0).to(tl.int64)
    student += row * stride_s
    teacher += row * stride_t
    lane = tl.arange(0, BLOCK)
    squares = 0.0
    error = 0.0
    for start in range(0, H, BLOCK):
        mask = start + lane < H
        s = tl.load(student + start + lane, mask=mask, other=0.0).to(tl.float32)
        t = tl.load(teacher + start + lane, mask=mask, other=0.0).to(tl.float32)
        squares += tl.sum(t * t, axis=0)
        error += tl.sum((s - t) * (s - t), axis=0)
    squares = tl.maximum(squares, 1.1754944e-38)
    tl.store(losses + row, error / squares)
    if GRADIENT:
        scale = 2.0 * tl.load(weights + row).to(tl.float32) / squares
        gradient += row * H
        for start in range(0, H, BLOCK):
            mask = start + lane < H
            s = tl.load(student + start + lane, mask=mask, other=0.0).to(tl.float32)
            t = tl.load(teacher + start + lane, mask=mask, other=0.0).to(tl.float32)
            tl.store(gradient + start + lane, ((s - t) * scale).to(gradient.dtype.element_ty), mask=mask)


def kl_with_gradient(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return losses [N] and gradient [N, V]; arguments as those of `jetlit_kernels.kl_with_gradient`."""
    return _against_teacher(kl_kernel, student, teacher, weights, gradient_dtype)


def relative_error_with_gradient(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return losses [N] and gradient [N, H]; arguments as those of `jetlit_kernels.relative_error_with_gradient`."""
    return _against_teacher(relative_error_kernel, student, teacher, weights, gradient_dtype)


def cross_entropy_with_gradient(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, gradient_dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return losses [N] and gradient [N, V]; arguments as those of `jetlit_kernels.cross_entropy_with_gradient`."""
    logits = _rows(logits)
    losses, gradient = _results(logits, gradient_dtype)
    if logits.numel():
        cross_entropy_kernel[(logits.shape[0],)](
            logits, labels, weights, losses, gradient, logits.shape[1], logits.stride(0),
            GRADIENT=gradient_dtype is not None, BLOCK=_block(logits), num_warps=WARPS,
        )  # fmt: skip
    return losses, gradient if gradient_dtype is not None else None


def _against_teacher(
    kernel: Any,
    student: torch.Tensor,
    teacher: torch.Tensor,
    weights: torch.Tensor,
    gradient_dtype: torch.dtype | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    student, teacher = _rows(student), _rows(teacher)
    losses, gradient = _results(student, gradient_dtype)
    if student.numel():
        kernel[(student.shape[0],)](
            student, teacher, weights, losses, gradient, student.shape[1], student.stride(0), teacher.stride(0),
            GRADIENT=gradient_dtype is not None, BLOCK=_block(student), num_warps=WARPS,
        )  # fmt: skip
    return losses, gradient if gradient_dtype is not None else None


def _rows(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _results(logits: torch.Tensor, gradient_dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate losses and gradient; without a gradient an empty tensor takes its place."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    shape = (0, logits.shape[1]) if gradient_dtype is None else logits.shape
    return losses, torch.empty(shape, dtype=gradient_dtype or logits.dtype, device=logits.device)


def _block(logits: torch.Tensor) -> int:
    return min(BLOCK, power_of_two(logits.shape[1]))
