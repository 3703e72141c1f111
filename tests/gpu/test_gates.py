"""log_decay_and_beta in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import log_decay_and_beta

from tests.kernels.backends import assert_near
from tests.kernels.test_gates import definition, draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 4096, 12), (3, 77, 16), (1, 5)])
@torch.no_grad()
def test_matches_float64(shape, dtype):
    inputs = draw(shape, dtype, "cuda")
    assert_near(log_decay_and_beta(*inputs), definition(*inputs), 1e-5)  # results are float32 for both types
