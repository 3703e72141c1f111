"""short_conv in Triton against float64 on a GPU: outputs, final state and every gradient."""

import pytest
import torch
from jetlit_kernels import short_conv

from tests.kernels.backends import assert_near

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float16, 2e-3), (torch.float32, 1e-5)]
)


def draw(batch, length, channels, taps, dtype, bias=True):
    torch.manual_seed(0)
    shapes = [(batch, length, channels), (channels, taps), *([(channels,)] if bias else [])]
    return [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for shape in shapes]


def check(inputs, tolerance, state=None, **options):
    upstream = torch.randn_like(inputs[0])
    copies = [x.detach().double().requires_grad_() for x in inputs]
    found = []
    for tensors, carried, backend in (
        (inputs, state, "triton"),
        (copies, None if state is None else state.double(), "torch"),
    ):
        out, final = short_conv(*tensors, state=carried, output_final_state=True, backend=backend, **options)
        found.append([out, final, *torch.autograd.grad(out, tensors, upstream.to(out.dtype))])
    assert_near(*found, tolerance)


@DTYPES
@pytest.mark.parametrize("taps", range(2, 9))
def test_every_width(taps, dtype, tolerance):
    state = torch.randn(2, 200, taps, device="cuda").to(dtype)
    check(draw(2, 77, 200, taps, dtype), tolerance, state, activation="silu")


@DTYPES
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 500])
def test_odd_lengths_without_bias(length, dtype, tolerance):
    check(draw(2, length, 45, 4, dtype, bias=False), tolerance)


@DTYPES
@pytest.mark.parametrize("with_state", [False, True])
def test_packed(with_state, dtype, tolerance):
    bounds = torch.tensor([0, 1, 3, 3, 130, 131, 700, 701], device="cuda")
    state = torch.randn(7, 192, 4, device="cuda").to(dtype) if with_state else None
    check(draw(1, 701, 192, 4, dtype), tolerance, state, cu_seqlens=bounds, activation="silu")


def test_released_size_repeats_exactly_and_compiles():
    inputs = draw(8, 4096, 3072, 4, torch.bfloat16, bias=False)
    upstream = torch.randn_like(inputs[0])

    def both_ways(function):
        out, _ = function(*inputs, activation="silu")
        return out, *torch.autograd.grad(out, inputs, upstream)

    first, second = both_ways(short_conv), both_ways(short_conv)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_near(both_ways(torch.compile(short_conv, fullgraph=True)), first, 1e-6)


def test_strided_rows():
    wide = torch.randn(2, 130, 400, device="cuda").bfloat16()
    _, weight, bias = draw(1, 1, 192, 4, torch.bfloat16)
    check([wide[..., 100:292].detach().requires_grad_(), weight, bias], 5e-3, activation="silu")
