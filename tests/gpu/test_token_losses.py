"""The losses of rows in Triton, at the sizes they are made for, and the objectives that use them."""

import pytest
import torch
from jetlit_kernels import cross_entropy_with_gradient, kl_with_gradient, relative_error_with_gradient

from jetlit.objectives import chunked_cross_entropy, chunked_kl, relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]


@pytest.mark.parametrize("shape", [(7, 151_936), (33, 49_152), (2, 61)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients(shape, dtype):
    student, teacher = ((4 * torch.randn(shape, device="cuda")).to(dtype) for _ in range(2))
    weights = torch.rand(shape[0], device="cuda")
    labels = torch.randint(shape[1], shape[:1], device="cuda")
    for function, arguments in (
        (kl_with_gradient, (student, teacher, weights)),
        (cross_entropy_with_gradient, (student, labels, weights)),
        (relative_error_with_gradient, (student, teacher, weights)),
    ):
        exact = [x if x.dtype == torch.long else x.double() for x in arguments]
        expected = function(*exact, torch.float64, backend="torch")
        for gradient_dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 4e-3)):
            losses, gradient = function(*arguments, gradient_dtype)
            assert ((losses - expected[0]).norm() / expected[0].norm()).item() <= 1e-5
            assert gradient.dtype == gradient_dtype
            assert ((gradient - expected[1]).norm() / expected[1].norm()).item() <= tolerance
            again = function(*arguments, gradient_dtype)
            assert torch.equal(again[0], losses) and torch.equal(again[1], gradient)


def test_chunked_objectives_at_a_large_vocabulary():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 129, 64, device="cuda").bfloat16() for _ in range(2))
    head, teacher_head = (torch.randn(151_936, 64, device="cuda") / 4 for _ in range(2))
    labels = torch.randint(151_936, (2, 129), device="cuda")
    objectives = {
        "cross entropy": lambda s, t, h, g: chunked_cross_entropy(s, h, labels, chunk=100),
        "kl": lambda s, t, h, g: chunked_kl(s, t, h, g, chunk=100),
        "relative error": lambda s, t, h, g: relative_error(s, t) + 0 * h.sum(),
    }
    for name, objective in objectives.items():
        inputs = student.clone().requires_grad_(), teacher, head.clone().requires_grad_(), teacher_head
        exact = [x.detach().bfloat16().double() for x in inputs]
        exact[0].requires_grad_()
        exact[2].requires_grad_()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            value = objective(*inputs)
        expected = objective(*exact)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0, msg=name)
        found = torch.autograd.grad(value, (inputs[0], inputs[2]))
        right = torch.autograd.grad(expected, (exact[0], exact[2]))
        assert found[1].dtype == torch.float32
        for one, other in zip(found, right):
            assert ((one - other).norm() / other.norm().clamp_min(1e-30)).item() < 6e-3, name
