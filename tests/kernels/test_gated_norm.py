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


def silu(z):
    return z / (1 + (-z).exp())


def normed(x, weight, eps):
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@BACKENDS
@pytest.mark.parametrize("with_gate", [False, True])
@pytest.mark.parametrize("with_skip", [False, True])
@pytest.mark.parametrize("norm_before_gate", [False, True])
def test_every_order(norm_before_gate, with_skip, with_gate, backend, dtype, tolerance):
    torch.manual_seed(0)
    shapes = {"o": (3, 5, 11), "weight": (11,)}
    shapes |= {"gate": (3, 5, 11)} if with_gate else {}
    shapes |= {"skip": (3, 5, 11), "skip_weight": (5,)} if with_skip else {}
    inputs = {name: torch.randn(shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()}
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    upstream = torch.randn(3, 5, 11, dtype=dtype)
    arguments = {"gate": None} | inputs
    actual = gated_rms_norm(**arguments, norm_before_gate=norm_before_gate, backend=backend)
    x = exact["o"] + (exact["skip_weight"][:, None] * exact["skip"] if with_skip else 0)
    gate = silu(exact["gate"]) if with_gate else 1.0
    expected = normed(x, exact["weight"], 1e-5) * gate if norm_before_gate else normed(x * gate, exact["weight"], 1e-5)
    assert_near([actual], [expected], tolerance)
    assert_near(
        torch.autograd.grad(actual, list(inputs.values()), upstream),
        torch.autograd.grad(expected, list(exact.values()), upstream.double()),
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
    with pytest.raises(ValueError, match="one shape"):
        gated_rms_norm(torch.zeros(2, 4), None, torch.zeros(3))
    with pytest.raises(ValueError, match="skip_weight"):
        gated_rms_norm(torch.zeros(2, 4), None, torch.zeros(4), skip=torch.zeros(2, 4))


@INTERPRETED
def test_triton_operator_is_complete():
    from jetlit_kernels.gated_norm.autograd import gated_rms_norm_op

    o, gate, weight = (torch.randn(*shape, requires_grad=True) for shape in ((5, 6), (5, 6), (6,)))
    torch.library.opcheck(gated_rms_norm_op, (o, gate, weight, None, None, 1e-5, True))
    torch.library.opcheck(gated_rms_norm_op, (o, None, weight, gate, torch.randn(5, requires_grad=True), 1e-5, False))
