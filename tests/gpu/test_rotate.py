"""rotate in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import rotary_angles, rotate

from tests.kernels.test_rotate import check, draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float16, 2e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(2, 500, 12, 96), (3, 77, 1, 128), (1, 1, 16, 64), (2, 33, 5, 10)])
@pytest.mark.parametrize("angles", [None, 1])
def test_value_and_gradient(shape, angles, dtype, tolerance):
    check(*draw(*shape, dtype, angles=angles, device="cuda"), tolerance)


def test_compiles():
    x, upstream, angle = draw(2, 300, 12, 96, torch.bfloat16, device="cuda")
    compiled = torch.compile(rotate, fullgraph=True)
    found = []
    for function in (rotate, compiled):
        out = function(x, angle.cos().float(), angle.sin().float())
        found.append([out, *torch.autograd.grad(out, x, upstream)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_angles_are_those_of_float64():
    positions = torch.randint(2**20, (3, 500), device="cuda")
    actual = rotary_angles(positions, 96, 10_000.0)
    for value, expected in zip(actual, rotary_angles(positions, 96, 10_000.0, torch.float64, backend="torch")):
        assert (value.double() - expected).abs().max() < 1e-6
