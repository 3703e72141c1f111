"""rotate_and_store in Triton against float64 on a GPU."""

import pytest
import torch
from jetlit_kernels import rotate_and_store

from tests.kernels.backends import assert_near
from tests.kernels.test_rotate_and_store import draw, expected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])


@TYPES
@pytest.mark.usefixtures("filled_with_nan")
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "queries", "groups", "slots", "size", "position"),
    [
        (1, 1, 12, 2, 4096, 128, 4000),
        (128, 1, 16, 8, 300, 128, 1000),
        (3, 50, 9, 3, 77, 64, 77),
        (2, 10, 4, 1, 10, 40, 3),
    ],
)
def test_matches_float64(batch, length, queries, groups, slots, size, position, normed, dtype, tolerance):
    tensors, angles = draw(batch, length, queries, groups, slots, size, dtype, normed, "cuda")
    # Angles are rounded to the type before both.
    exact = tensors | {name: tensors[name].double() for name in ("cos", "sin")}
    wanted = expected(tensors, angles, position, groups) if dtype == torch.float32 else by_reference(exact, position)
    query = rotate_and_store(**tensors, position=torch.tensor([position], device="cuda"), norm_eps=1e-3)
    assert_near([query, tensors["keys"], tensors["values"]], wanted, tolerance)


def by_reference(tensors, position):
    """Compute the plain form in float64, for cosines and sines that bfloat16 has rounded."""
    exact = {name: x.double() for name, x in tensors.items() if name != "norm_weights"}
    if "norm_weights" in tensors:
        exact["norm_weights"] = tuple(w.double() for w in tensors["norm_weights"])
    place = torch.tensor([position], device="cuda")
    query = rotate_and_store(**exact, position=place, norm_eps=1e-3, backend="torch")
    return query, exact["keys"], exact["values"]


def test_a_graph_follows_the_position():
    tensors, angles = draw(2, 1, 4, 2, 9, 64, torch.float32, False, "cuda")
    position = torch.tensor([0], device="cuda")
    rotate_and_store(**tensors, position=position)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        query = rotate_and_store(**tensors, position=position)
    for place in (1, 8, 9):
        wanted = expected(tensors, angles, place, 2)
        position.fill_(place)
        graph.replay()
        assert_near([query, tensors["keys"], tensors["values"]], wanted, 1e-5)
