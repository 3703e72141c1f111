"""jet_decode_step in Triton against the float64 reference on a GPU."""

import pytest
import torch
from jetlit_kernels import jet_decode_step, recurrent_step

from tests.kernels.test_decode_step import BLOCKS, STATES, draw, draw_step

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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("with_slots", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_matches_float64(block, with_slots, dtype, tolerance):
    sizes = {"batch": 3, "heads": 12, "key_dim": 96, "value_dim": 256, "taps": 4}
    x = draw_step(*BLOCKS[block], with_slots, torch.float64, **sizes)
    parameters = (*PARAMETERS, "skip_weight", "log_decay")
    for name, value in x.items():
        if isinstance(value, torch.Tensor):
            kept = value.dtype if name == "slots" else torch.float32 if name in parameters else dtype
            x[name] = value.cuda().to(kept)
    exact = {n: t.double() if isinstance(t, torch.Tensor) and n != "slots" else t for n, t in x.items()}
    for _ in range(3):
        out, expected = recurrent_step(**x), recurrent_step(**exact, backend="torch")
    assert relative(out, expected) <= tolerance
    for name in STATES:
        if name in x:
            assert relative(x[name], exact[name]) <= tolerance, name


def test_slots_are_captured_in_a_cuda_graph():
    x = draw_step(*BLOCKS["gated_delta_net"], True, torch.float64, heads=4, key_dim=64, value_dim=128, taps=4)
    x = {n: t.cuda().to(t.dtype if n == "slots" else torch.float32) if isinstance(t, torch.Tensor) else t
         for n, t in x.items()}  # fmt: skip
    eager = {name: t.clone() if isinstance(t, torch.Tensor) else t for name, t in x.items()}
    recurrent_step(**eager)
    eager |= {name: x[name].clone() for name in STATES}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = recurrent_step(**x)
    for slots in ([5, 0, 3], [6, 1, 2], [3, 5, 0]):
        x["slots"].copy_(torch.tensor(slots))
        eager["slots"] = torch.tensor(slots, device="cuda")
        graph.replay()
        assert torch.equal(out, recurrent_step(**eager))
    assert all(torch.equal(x[name], eager[name]) for name in STATES)
