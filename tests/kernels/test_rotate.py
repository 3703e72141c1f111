"""rotate against the product with a complex number of size 1, in float64."""

import pytest
import torch
from jetlit_kernels import rotary_angles, rotate

from tests.kernels.backends import BACKENDS, INTERPRETED, assert_near


def definition(x, angle):
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.exp(1j * angle)[:, :, None]
    return torch.cat((turned.real, turned.imag), -1)


def draw(batch, length, heads, size, dtype, angles=None, device="cpu"):
    torch.manual_seed(0)
    x, upstream = (torch.randn(batch, length, heads, size, device=device).to(dtype) for _ in range(2))
    angle = 7 * torch.randn(angles or batch, length, size // 2, dtype=torch.float64, device=device)
    return x.requires_grad_(), upstream, angle


def check(x, upstream, angle, tolerance, **options):
    kept = torch.promote_types(x.dtype, torch.float32)
    copy = x.detach().double().requires_grad_()
    actual = rotate(x, angle.cos().to(kept), angle.sin().to(kept), **options)
    expected = definition(copy, angle)
    assert actual.dtype == x.dtype
    gradients = torch.autograd.grad(actual, x, upstream) + torch.autograd.grad(expected, copy, upstream.double())
    assert_near([actual, gradients[0]], [expected, gradients[1]], tolerance)


@BACKENDS
@pytest.mark.parametrize("shape", [(2, 5, 3, 14), (1, 1, 1, 2), (3, 70, 2, 96)])
def test_value_and_gradient(shape, backend, dtype, tolerance):
    check(*draw(*shape, dtype), tolerance, backend=backend)


@BACKENDS
def test_one_row_of_angles_serves_a_batch(backend, dtype, tolerance):
    check(*draw(3, 9, 2, 8, dtype, angles=1), tolerance, backend=backend)


@BACKENDS
@pytest.mark.parametrize("size", [2, 6, 96])
def test_angles_are_exact_at_long_positions(size, backend, dtype, tolerance):
    positions = torch.tensor([[0, 1, 70], [65_535, 1_000_003, 2**31 - 1]])
    rates = torch.tensor([10_000.0 ** (-2 * i / size) for i in range(size // 2)], dtype=torch.float64)
    angle = positions[..., None] * rates
    actual = rotary_angles(positions, size, 10_000.0, dtype, backend=backend)
    # A relative error of float64 in the angle, 2⁻⁵², is an absolute one of 5e-7 at the last position.
    assert_near(actual, [angle.cos(), angle.sin()], max(tolerance, 1e-6))


def test_refuses_shapes_that_disagree():
    with pytest.raises(ValueError, match="even"):
        rotary_angles(torch.zeros(1, 1, dtype=torch.int64), 3, 10_000.0)
    x = torch.zeros(2, 3, 4, 6)
    for shape in ((2, 3, 6), (2, 4, 3), (3, 3, 3)):
        with pytest.raises(ValueError, match="cos and sin"):
            rotate(x, torch.zeros(shape), torch.zeros(shape))


@INTERPRETED
def test_triton_operator_is_complete():
    from jetlit_kernels.rotate.autograd import rotate_op

    x, _, angle = draw(2, 5, 3, 8, torch.float32)
    torch.library.opcheck(rotate_op, (x, angle.cos().float(), angle.sin().float()))
