"""silu_mul against its definition in float64."""

import pytest
import torch
from jetlit_kernels import silu_mul

from tests.kernels.backends import BACKENDS, assert_near


@BACKENDS
@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 5, 2100), (1, 1, 1)])
def test_matches_definition(shape, backend, dtype, tolerance):
    torch.manual_seed(0)
    merged = torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)
    gate, up = merged.chunk(2, -1)
    exact = gate.double() / (1 + (-gate.double()).exp()) * up.double()
    out = silu_mul(gate, up, backend=backend)
    assert out.is_contiguous()
    assert_near([out], [exact], tolerance)


def test_refuses_shapes_that_disagree():
    with pytest.raises(ValueError, match="one shape"):
        silu_mul(torch.zeros(2, 4), torch.zeros(2, 3))
