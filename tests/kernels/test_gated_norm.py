"""gated_rms_norm against its definition in float64."""

import pytest
import torch
from jetlit_kernels import gated_rms_norm

from tests.kernels.backends import BACKENDS, INTERPRETED, assert_near


def definition(o, gate, weight, eps):
    rows = [
        weight * row / (row.pow(2).sum() / row.numel() + eps).sqrt() * (z / (1 + (-z).exp()))
        for row, z in zip(o.flatten(0, -2), gate.flatten(0, -2), strict=True)
    ]
    return torch.stack(rows).view(o.shape)


@BACKENDS
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 3, 16), (1, 1, 1, 2), (70, 100)])
def test_value_and_gradients(shape, backend, dtype, tolerance):
    torch.manual_seed(0)
    o, gate, upstream = (torch.randn(shape, dtype=dtype) for _ in range(3))
    inputs = [x.requires_grad_() for x in (o, gate, torch.randn(shape[-1], dtype=dtype))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual, expected = gated_rms_norm(*inputs, 1e-5, backend=backend), definition(*exact, 1e-5)
    assert_near([actual], [expected], tolerance)
    assert_near(
        torch.autograd.grad(actual, inputs, upstream),
        torch.autograd.grad(expected, exact, upstream.double()),
        tolerance,
    )


def test_bfloat16_is_rounded_once():
    torch.manual_seed(0)
    o, gate, weight = torch.randn(64, 32).bfloat16(), torch.randn(64, 32).bfloat16(), torch.randn(32)
    out = gated_rms_norm(o, gate, weight, backend="torch")
    expected = definition(o.double(), gate.double(), weight.double(), 1e-5)
    assert out.dtype == torch.bfloat16
    # Half a unit in the last place of bfloat16 is 2^-8, and a hair for the float32 arithmetic before it.
    assert ((out.double() - expected).abs() <= expected.abs() * (2**-8 + 1e-6)).all()


def test_refuses_shapes_that_disagree():
    with pytest.raises(ValueError, match="one shape"):
        gated_rms_norm(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(4))


@INTERPRETED
def test_triton_operator_is_complete():
    from jetlit_kernels.gated_norm.autograd import gated_rms_norm_op

    o, gate, weight = (torch.randn(*shape, requires_grad=True) for shape in ((5, 6), (5, 6), (6,)))
    torch.library.opcheck(gated_rms_norm_op, (o, gate, weight, 1e-5))
