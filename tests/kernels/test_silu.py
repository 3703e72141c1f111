"""silu against its definition in float64."""

import pytest
import torch
from jetlit_kernels import silu

from tests.kernels.backends import BACKENDS, assert_near

SHAPES = pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 70, 45), (2, 5, 300), (1, 1, 1), (0, 4)])


def draw(shape, dtype, device="cpu"):
    """Return a slice of a wider tensor, with large numbers of both signs, and the gradient of its SiLU."""
    torch.manual_seed(shape[-1])
    wide = 5 * torch.randn(*shape[:-1], shape[-1] + 24, device=device, dtype=dtype)
    wide[..., 1] = -200
    return wide[..., : shape[-1]], torch.randn(shape, device=device, dtype=dtype)


def definition(x):
    x = x.double()
    return x / (1 + (-x).exp())


def with_gradient(call, x, upstream):
    leaf = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x).requires_grad_()
    out = call(leaf)
    return [out, *torch.autograd.grad(out, leaf, upstream.to(out.dtype))]


@BACKENDS
@SHAPES
def test_value_and_gradient_match_the_definition(shape, backend, dtype, tolerance):
    x, upstream = draw(shape, dtype)
    found = with_gradient(lambda x: silu(x, backend=backend), x, upstream)
    assert all(tensor.is_contiguous() and tensor.dtype == dtype for tensor in found)
    assert_near(found, with_gradient(definition, x, upstream), tolerance)


@BACKENDS
def test_columns_may_be_apart_and_gradients_be_slices(backend, dtype, tolerance):
    x, upstream = draw((6, 40), dtype)
    found = with_gradient(lambda x: silu(x, backend=backend), x.T, upstream.T)
    assert found[0].is_contiguous()
    assert_near(found, with_gradient(definition, x.T, upstream.T), tolerance)


def test_compiles_without_graph_break():
    x, upstream = draw((4, 9), torch.float32)
    compiled = torch.compile(silu, fullgraph=True, backend="aot_eager")
    assert_near(with_gradient(compiled, x, upstream), with_gradient(silu, x, upstream), 1e-6)
