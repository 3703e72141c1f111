"""silu in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import silu

from tests.kernels.backends import assert_near
from tests.kernels.test_silu import definition, draw, with_gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float16, 2e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(2, 4096, 384), (3, 77, 512), (1, 45), (7, 1000), (2, 1, 8)])
def test_value_and_gradient_match_float64(shape, dtype, tolerance):
    x, upstream = draw(shape, dtype, "cuda")
    assert_near(with_gradient(silu, x, upstream), with_gradient(definition, x, upstream), tolerance)


def test_compiles_and_repeats_exactly():
    x, upstream = draw((2, 4096, 384), torch.bfloat16, "cuda")
    first, second = (with_gradient(silu, x, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    compiled = with_gradient(torch.compile(silu, fullgraph=True), x, upstream)
    assert_near(compiled, with_gradient(definition, x, upstream), 5e-3)
