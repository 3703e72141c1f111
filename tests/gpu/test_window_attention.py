"""window_attention in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import window_attention

from tests.kernels.backends import assert_near
from tests.kernels.test_window_attention import definition, draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])


@TYPES
@pytest.mark.usefixtures("filled_with_nan")
@pytest.mark.parametrize(
    ("heads", "groups", "length", "slots", "window", "size"),
    [(12, 2, 700, 1851, 1152, 128), (16, 2, 300, 300, 2048, 128), (9, 3, 333, 400, 77, 64), (4, 4, 1, 50, 37, 96)],
)
def test_matches_float64(heads, groups, length, slots, window, size, dtype, tolerance):
    query, key, value = draw(2, heads, groups, length, slots, size, dtype, "cuda")
    actual = window_attention(query, key, value, window)
    assert_near([actual], [definition(query, key, value, window, size**-0.5)], tolerance)


@pytest.mark.usefixtures("filled_with_nan")
def test_more_sequences_and_heads_than_a_grid_s_second_axis_has_places():
    query, key, value = draw(7300, 9, 3, 3, 6, 64, torch.bfloat16, "cuda")
    actual = window_attention(query, key, value, 4)
    assert_near([actual], [definition(query, key, value, 4, 64**-0.5)], 5e-3)
