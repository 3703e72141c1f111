"""log_decay_and_beta in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import log_decay_and_beta

from tests.kernels.backends import assert_near
from tests.kernels.test_gates import definition, draw, gradients

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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(2, 4096, 12), (3, 77, 16), (1, 5)])
def test_gradients_match_float64(shape, dtype, tolerance):
    inputs = draw(shape, dtype, "cuda")
    upstream = torch.randn(2, *shape, device="cuda")
    assert_near(gradients(log_decay_and_beta, inputs, upstream), gradients(definition, inputs, upstream), tolerance)
