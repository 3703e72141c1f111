"""jet_decode_step in Triton against the float64 reference on a GPU."""

import pytest
import torch
from jetlit_kernels import jet_decode_step

from tests.kernels.test_decode_step import draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]
PARAMETERS = ("A_log", "dt_bias", "norm_weight", "recurrent_state")


def inputs_on_gpu(batch, heads, key_dim, value_dim, taps, dtype):
    inputs = draw(batch, heads, key_dim, value_dim, taps, seed=batch)
    return {name: x.cuda().to(torch.float32 if name in PARAMETERS else dtype) for name, x in inputs.items()}


def relative(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "size", [(12, 96, 256, 4), (16, 128, 256, 4), (4, 256, 288, 4), (12, 64, 384, 2), (2, 40, 72, 8)]
)
@pytest.mark.parametrize("batch", [1, 3, 128, 256])
def test_matches_float64(batch, size, dtype, tolerance):
    inputs = inputs_on_gpu(batch, *size, dtype)
    exact = {name: x.double() for name, x in inputs.items()}
    for _ in range(3):
        out, expected = jet_decode_step(**inputs), jet_decode_step(**exact, backend="torch")
    assert relative(out, expected) <= tolerance
    assert torch.equal(inputs["conv_state"].double(), exact["conv_state"])
    assert relative(inputs["recurrent_state"], exact["recurrent_state"]) <= tolerance


def test_inside_a_cuda_graph():
    eager = inputs_on_gpu(256, 12, 96, 256, 4, torch.bfloat16)
    captured = {name: x.clone() for name, x in eager.items()}
    warm_up = {name: x.clone() for name, x in eager.items()}
    jet_decode_step(**warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = jet_decode_step(**captured)
    for _ in range(3):
        graph.replay()
        expected = jet_decode_step(**eager)
    assert torch.equal(out, expected)
    assert torch.equal(captured["recurrent_state"], eager["recurrent_state"])
    assert torch.equal(captured["conv_state"], eager["conv_state"])


def test_compiles_without_graph_break():
    eager = inputs_on_gpu(4, 2, 32, 64, 4, torch.bfloat16)
    compiled = {name: x.clone() for name, x in eager.items()}
    expected = jet_decode_step(**eager)
    assert torch.equal(torch.compile(jet_decode_step, fullgraph=True)(**compiled), expected)
    assert torch.equal(compiled["recurrent_state"], eager["recurrent_state"])
