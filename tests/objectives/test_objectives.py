"""The chunked objectives against the formulas written out naively in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from jetlit.objectives import chunked_cross_entropy, chunked_kl, relative_error

SIZES = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(1, 7), st.integers(2, 23), st.integers(1, 13))


def leaf(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def naive_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    log_probs = (hidden[:, :-1] @ weight.T).log_softmax(-1)
    targets = labels[:, 1:]
    counted = targets != -100
    return -log_probs.gather(-1, targets.clamp_min(0)[..., None])[..., 0][counted].mean()


def naive_kl(s: torch.Tensor, t: torch.Tensor, ws: torch.Tensor, wt: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    p, q = (t @ wt.T).softmax(-1), (s @ ws.T).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)[mask].mean()


@settings(max_examples=30)
@given(SIZES, st.integers(0, 1000))
def test_cross_entropy_and_gradients_equal_the_naive_formula(sizes, seed):
    batch, length, width, vocabulary, chunk = sizes
    hidden, weight = leaf(batch, length, width, seed=seed), leaf(vocabulary, width, seed=seed + 1)
    labels = torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
    labels[0, 0] = -100  # never a target, since labels are shifted
    if length > 3:
        labels[-1, length // 2] = -100
    expected = naive_cross_entropy(hidden, weight, labels)
    expected_grads = torch.autograd.grad(3 * expected, (hidden, weight))
    value = chunked_cross_entropy(hidden, weight, labels, chunk=chunk)
    grads = torch.autograd.grad(3 * value, (hidden, weight))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, expected_grads)


@settings(max_examples=30)
@given(SIZES, st.integers(1, 5), st.integers(0, 1000))
def test_kl_and_gradients_equal_the_naive_formula(sizes, teacher_width, seed):
    batch, length, width, vocabulary, chunk = sizes
    student, teacher = leaf(batch, length, width, seed=seed), leaf(batch, length, teacher_width, seed=seed + 1)
    student_head, teacher_head = leaf(vocabulary, width, seed=seed + 2), leaf(vocabulary, teacher_width, seed=seed + 3)
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[0, 0] = True
    expected = naive_kl(student, teacher, student_head, teacher_head, mask)
    expected_grads = torch.autograd.grad(expected, (student, student_head))
    value = chunked_kl(student, teacher, student_head, teacher_head, mask, chunk=chunk)
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close((student.grad, student_head.grad), expected_grads)
    assert teacher.grad is None and teacher_head.grad is None


def test_kl_is_zero_only_for_equal_distributions():
    hidden, head = leaf(2, 5, 4, seed=0), leaf(11, 4, seed=1)
    assert chunked_kl(hidden, hidden, head, head).abs() < 1e-12
    assert chunked_kl(hidden, 1.5 * hidden, head, head) > 1e-3


def test_a_frozen_head_gets_no_gradient_and_none_is_computed():
    hidden, head = leaf(2, 5, 4, seed=0), leaf(11, 4, seed=1).detach()
    labels = torch.randint(11, (2, 5))
    loss = chunked_cross_entropy(hidden, head, labels)
    assert loss.grad_fn.saved_tensors[1] is None
    loss.backward()
    assert hidden.grad is not None and head.grad is None


def test_all_labels_ignored_is_zero_with_zero_gradients():
    hidden, head = leaf(2, 5, 4, seed=0), leaf(11, 4, seed=1)
    loss = chunked_cross_entropy(hidden, head, torch.full((2, 5), -100))
    loss.backward()
    assert loss == 0 and hidden.grad.eq(0).all() and head.grad.eq(0).all()


def test_no_gradients_are_kept_under_no_grad():
    hidden, head = leaf(2, 5, 4, seed=0), leaf(11, 4, seed=1)
    with torch.no_grad():
        assert not chunked_cross_entropy(hidden, head, torch.randint(11, (2, 5))).requires_grad


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_no_tensor_of_tokens_by_vocabulary_is_ever_made(chunk):
    tokens, vocabulary = 3 * 33, 501
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim == 2 and vocabulary in out.shape:
                largest = max(largest, out.numel())
            return out

    hidden, teacher, head = leaf(3, 33, 4, seed=0), leaf(3, 33, 4, seed=2), leaf(vocabulary, 4, seed=1)
    with Watch():
        loss = chunked_cross_entropy(hidden, head, torch.randint(vocabulary, (3, 33)), chunk=chunk)
        (loss + chunked_kl(hidden, teacher, head, head, chunk=chunk)).backward()
    assert max(chunk, 4) * vocabulary == largest < tokens * vocabulary


def test_bfloat16_hidden_states_are_accumulated_in_float32():
    hidden, head = leaf(4, 65, 32, seed=0, dtype=torch.bfloat16), leaf(97, 32, seed=1, dtype=torch.bfloat16)
    labels = torch.randint(97, (4, 65), generator=torch.Generator().manual_seed(2))
    value = chunked_cross_entropy(hidden, head, labels, chunk=10)
    expected = naive_cross_entropy(hidden.double(), head.double(), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=2e-3, atol=0)
    grads = torch.autograd.grad(value, (hidden, head))
    for grad, right in zip(grads, torch.autograd.grad(expected, (hidden, head))):
        assert grad.dtype == torch.bfloat16
        assert (grad - right).norm() / right.norm() < 1e-2


def test_under_autocast_float32_weights_are_multiplied_in_bfloat16():
    hidden, head = leaf(2, 9, 8, seed=0, dtype=torch.float32), leaf(31, 8, seed=1, dtype=torch.float32)
    labels = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = chunked_cross_entropy(hidden, head, labels)
    assert value.dtype == torch.float32
    grads = torch.autograd.grad(value, (hidden, head))
    assert [grad.dtype for grad in grads] == [torch.float32] * 2
    right = torch.autograd.grad(F.cross_entropy((hidden[:, :-1] @ head.T).flatten(0, 1), labels[:, 1:].flatten()), head)
    assert (grads[1] - right[0]).norm() / right[0].norm() < 2e-2


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 7), st.integers(1, 9))
def test_feature_distillation_is_the_mean_relative_error(layers, batch, length, width):
    students = [leaf(batch, length, width, seed=n) for n in range(layers)]
    teachers = [leaf(batch, length, width, seed=100 + n) for n in range(layers)]
    error = [((s - t) ** 2).sum(-1) / (t**2).sum(-1) for s, t in zip(students, teachers)]
    expected = torch.stack(error).mean()
    expected_grads = torch.autograd.grad(2 * expected, students)
    value = torch.stack([relative_error(s, t) for s, t in zip(students, teachers)]).mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(2 * value, students), expected_grads)


def test_a_few_huge_states_do_not_drown_the_others():
    teacher = leaf(1, 8, 4, seed=0).detach()
    student = 0.5 * teacher
    plain = relative_error(student, teacher)
    teacher[0, 0] *= 1000
    student[0, 0] *= 1000
    torch.testing.assert_close(relative_error(student, teacher), plain)


def test_mismatches_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        relative_error(torch.ones(1, 2, 3), torch.ones(1, 2, 4))
    with pytest.raises(ValueError, match="one vocabulary"):
        chunked_kl(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(5, 3), torch.ones(6, 3))
