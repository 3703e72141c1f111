"""Losses of rows and their gradients against the formulas in float64."""

import pytest
import torch
from jetlit_kernels import cross_entropy_with_gradient, kl_with_gradient, relative_error_with_gradient

from tests.kernels.backends import BACKENDS, assert_near

# Below, at and above one block of 4,096 logits.
SHAPES = pytest.mark.parametrize("shape", [(1, 2), (5, 61), (3, 4096), (2, 9001)])


def logits(shape, dtype, seed, scale=4.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def exact_kl(student, teacher, weights):
    s, t = student.double().requires_grad_(), teacher.double()
    losses = (t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum(-1)
    return losses.detach(), torch.autograd.grad((losses * weights.double()).sum(), s)[0]


def exact_relative_error(student, teacher, weights):
    s, t = student.double().requires_grad_(), teacher.double()
    losses = (s - t).pow(2).sum(-1) / t.pow(2).sum(-1)
    return losses.detach(), torch.autograd.grad((losses * weights.double()).sum(), s)[0]


def exact_cross_entropy(x, labels, weights):
    x = x.double().requires_grad_()
    losses = -x.log_softmax(-1)[torch.arange(len(x)), labels]
    return losses.detach(), torch.autograd.grad((losses * weights.double()).sum(), x)[0]


@BACKENDS
@SHAPES
@pytest.mark.parametrize(
    ("loss", "exact"), [(kl_with_gradient, exact_kl), (relative_error_with_gradient, exact_relative_error)]
)
def test_against_a_teacher(shape, backend, dtype, tolerance, loss, exact):
    student, teacher, weights = logits(shape, dtype, 0), logits(shape, dtype, 1), logits(shape[:1], dtype, 2)
    found = loss(student, teacher, weights, dtype, backend=backend)
    assert_near(found, exact(student, teacher, weights), tolerance)
    alone, nothing = loss(student, teacher, weights, backend=backend)
    assert nothing is None and torch.equal(alone, found[0])


@BACKENDS
@SHAPES
def test_cross_entropy(shape, backend, dtype, tolerance):
    x, weights = logits(shape, dtype, 0), logits(shape[:1], dtype, 1)
    labels = torch.randint(shape[1], shape[:1], generator=torch.Generator().manual_seed(2))
    labels[-1] = shape[1] - 1
    found = cross_entropy_with_gradient(x, labels, weights, dtype, backend=backend)
    assert_near(found, exact_cross_entropy(x, labels, weights), tolerance)
    alone, nothing = cross_entropy_with_gradient(x, labels, weights, backend=backend)
    assert nothing is None and torch.equal(alone, found[0])


@BACKENDS
def test_far_logits_neither_overflow_nor_vanish(backend, dtype, tolerance):
    # The largest logit comes last, in another block than the first: the running maximum must rescale.
    student, teacher = logits((2, 5000), dtype, 0), logits((2, 5000), dtype, 1)
    student[:, -1] += 300
    teacher[:, 0] += 200
    student -= 1000
    weights = torch.ones(2, dtype=dtype)
    assert_near(
        kl_with_gradient(student, teacher, weights, dtype, backend=backend),
        exact_kl(student, teacher, weights),
        tolerance,
    )
    labels = torch.tensor([4999, 0])
    assert_near(
        cross_entropy_with_gradient(student, labels, weights, dtype, backend=backend),
        exact_cross_entropy(student, labels, weights),
        tolerance,
    )


@BACKENDS
def test_rows_may_lie_apart_and_a_nan_shows(backend, dtype, tolerance):
    wide, teacher, weights = logits((3, 40), dtype, 0), logits((3, 30), dtype, 1), torch.ones(3, dtype=dtype)
    for student in (wide[:, :30], wide.T[:30].T, logits((30, 3), dtype, 4).T):
        found = kl_with_gradient(student, teacher, weights, dtype, backend=backend)
        assert_near(found, exact_kl(student, teacher, weights), tolerance)
    wide[1, 7] = float("nan")
    losses, _ = kl_with_gradient(wide[:, :30], teacher, weights, backend=backend)
    assert losses.isnan().tolist() == [False, True, False]


def test_refuses_what_does_not_fit():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="teacher must have the shape"):
        kl_with_gradient(x, torch.zeros(2, 4), torch.ones(2))
    with pytest.raises(ValueError, match="weights must have the shape"):
        cross_entropy_with_gradient(x, torch.zeros(2, dtype=torch.long), torch.ones(3))
    with pytest.raises(ValueError, match=r"one row per token, \[N, V\]"):
        cross_entropy_with_gradient(x[None], torch.zeros(2, dtype=torch.long), torch.ones(1))
