"""narrow_linear in Triton against float64 on a GPU, at the released models' shapes and odd ones."""

import pytest
import torch
from jetlit_kernels import narrow_linear

from tests.kernels.backends import assert_near
from tests.kernels.test_narrow_linear import PARTS, definition, draw, in_float64

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])


@TYPES
@pytest.mark.usefixtures("filled_with_nan")
@PARTS
@pytest.mark.parametrize(("width", "outputs"), [(1536, 8856), (384, 12288), (8960, 1536), (100, 70)])
@pytest.mark.parametrize("rows", [1, 16])
def test_matches_float64(rows, width, outputs, parts, dtype, tolerance):
    tensors, switches = draw(rows, width, outputs, dtype, parts, "cuda")
    expected = definition(**in_float64(tensors), **switches)
    actual = narrow_linear(**tensors, **switches, backend="triton")
    assert_near([actual], [expected], tolerance)


def test_repeats_exactly_and_inside_a_cuda_graph():
    tensors, switches = draw(2, 1536, 8960, torch.bfloat16, ("norm_weight", "swiglu"), "cuda")
    first = narrow_linear(**tensors, **switches)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = narrow_linear(**tensors, **switches)
    for _ in range(3):
        graph.replay()
        assert torch.equal(captured, first)


def test_the_library_serves_more_rows():
    tensors, switches = draw(128, 1536, 8960, torch.bfloat16, ("norm_weight", "swiglu"), "cuda")
    with pytest.raises(ValueError, match="at most 16 rows"):
        narrow_linear(**tensors, **switches, backend="triton")
    # Here the norm's and the gate's results are rounded to bfloat16 before they are used.
    assert_near([narrow_linear(**tensors, **switches)], [definition(**in_float64(tensors), **switches)], 1e-2)
