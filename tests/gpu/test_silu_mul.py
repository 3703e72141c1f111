"""silu_mul in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import silu_mul

from tests.kernels.backends import assert_near

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])


@TYPES
@pytest.mark.usefixtures("filled_with_nan")
@pytest.mark.parametrize("shape", [(1, 8960), (3, 500, 8960), (7, 33), (2, 5, 11008)])
def test_matches_float64(shape, dtype, tolerance):
    gate, up = torch.randn(*shape[:-1], 2 * shape[-1], device="cuda", dtype=dtype).chunk(2, -1)
    exact = gate.double() / (1 + (-gate.double()).exp()) * up.double()
    assert_near([silu_mul(gate, up)], [exact], tolerance)
