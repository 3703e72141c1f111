"""short_conv against its definition, written out token by token in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jetlit_kernels import short_conv

from tests.kernels.backends import BACKENDS, INTERPRETED, assert_near


def naive(x, weight, bias=None, activation=None, state=None, bounds=None):
    """out[t, d] = bias[d] + Σ_j weight[d, j] · x[t − W + 1 + j, d], one sequence and one token at a time."""
    taps = weight.shape[1]
    if bounds is not None:
        pieces = [
            naive(x[:, a:b], weight, bias, activation, None if state is None else state[n : n + 1])
            for n, (a, b) in enumerate(itertools.pairwise(bounds))
        ]
        return torch.cat(pieces, dim=1)
    rows = []
    for t in range(x.shape[1]):
        row = torch.zeros_like(x[:, t]) if bias is None else bias.expand_as(x[:, t])
        for j in range(taps):
            source = t - taps + 1 + j
            if source >= 0:
                row = row + weight[:, j] * x[:, source]
            elif state is not None:
                row = row + weight[:, j] * state[:, :, taps + source]
        rows.append(row)
    out = torch.stack(rows, dim=1) if rows else x.new_zeros(x.shape[0], 0, x.shape[2])
    return F.silu(out) if activation == "silu" else out


def draw(batch, length, channels, taps, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, channels), (channels, taps), (channels,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def exact(tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


@BACKENDS
@pytest.mark.parametrize("taps", [2, 3, 4, 8])
@pytest.mark.parametrize("length", [1, 3, 37])
def test_matches_definition(length, taps, backend, dtype, tolerance):
    inputs = [x.requires_grad_() for x in draw(2, length, 18, taps, dtype)]
    state, upstream = torch.randn(2, 18, taps, dtype=dtype), torch.randn(2, length, 18, dtype=dtype)
    out, final = short_conv(*inputs, activation="silu", state=state, backend=backend)
    copies = exact(inputs)
    expected = naive(*copies, activation="silu", state=state.double())
    assert final is None
    assert_near([out], [expected], tolerance)
    assert_near(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(expected, copies, upstream.double()), tolerance
    )


@BACKENDS
def test_no_bias_no_activation_and_several_tiles(backend, dtype, tolerance, monkeypatch):
    if backend == "triton":  # several tiles and segments
        from jetlit_kernels.short_conv import launch

        for name, size in {"ROWS": 16, "CHANNELS": 16, "SEGMENT": 16, "BLOCK": 16}.items():
            monkeypatch.setattr(launch, name, size)
    x, weight, _ = draw(2, 70, 33, 4, dtype)
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    upstream = torch.randn(2, 70, 33, dtype=dtype)
    out, _ = short_conv(*inputs, backend=backend)
    copies = exact(inputs)
    expected = naive(*copies)
    assert_near([out], [expected], tolerance)
    assert_near(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(expected, copies, upstream.double()), tolerance
    )


@BACKENDS
def test_tensors_may_lie_anyhow(backend, dtype, tolerance):
    x, weight, bias = draw(2, 9, 6, 3, dtype)
    wide = torch.full((2, 9, 20), float("nan"), dtype=dtype)
    wide[..., 5:11] = x
    by_tap = weight.T.contiguous().T
    inputs = [wide[..., 5:11].requires_grad_(), by_tap.requires_grad_(), bias.requires_grad_()]
    out, _ = short_conv(*inputs, activation="silu", backend=backend)
    copies = exact(inputs)
    expected = naive(*copies, activation="silu")
    assert_near([out], [expected], tolerance)
    upstream = torch.randn(2, 9, 12, dtype=dtype)[..., ::2]
    assert_near(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(expected, copies, upstream.double()), tolerance
    )


@BACKENDS
@settings(max_examples=8, derandomize=True)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), taps=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_chunk_after_chunk_is_one_pass(backend, dtype, tolerance, lengths, taps, seed):
    x, weight, bias = draw(2, sum(lengths), 3, taps, dtype, seed)
    whole, final = short_conv(x, weight, bias, output_final_state=True, backend=backend)
    state, pieces = None, []
    for piece in x.split(lengths, 1):
        out, state = short_conv(piece, weight, bias, state=state, output_final_state=True, backend=backend)
        pieces.append(out)
    assert_near([torch.cat(pieces, 1)], [whole], tolerance)
    assert torch.equal(state, final)
    assert torch.equal(final, F.pad(x, (0, 0, taps, 0))[:, -taps:].transpose(1, 2))


@BACKENDS
@settings(max_examples=8, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    taps=st.integers(2, 8),
    with_state=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_packed_is_each_sequence_alone(backend, dtype, tolerance, lengths, taps, with_state, seed):
    inputs = [x.requires_grad_() for x in draw(1, sum(lengths), 3, taps, dtype, seed)]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    state = torch.randn(len(lengths), 3, taps, dtype=dtype) if with_state else None
    arguments = {"activation": "silu", "cu_seqlens": bounds, "state": state, "backend": backend}
    out, final = short_conv(*inputs, output_final_state=True, **arguments)
    copies = exact(inputs)
    expected = naive(*copies, "silu", None if state is None else state.double(), bounds.tolist())
    assert_near([out], [expected], tolerance)
    with torch.no_grad():
        _, untrained = short_conv(*inputs, output_final_state=True, **arguments)
    assert torch.equal(untrained, final)
    for n, (a, b) in enumerate(itertools.pairwise(bounds.tolist())):
        history = torch.zeros(taps, 3) if state is None else state[n].T
        assert torch.equal(final[n].T, torch.cat([history.to(dtype), inputs[0][0, a:b]])[-taps:])
    assert_near(
        torch.autograd.grad(out, inputs, torch.ones_like(out)),
        torch.autograd.grad(expected, copies, torch.ones_like(expected)),
        tolerance,
    )


@BACKENDS
def test_a_state_can_be_trained(backend, dtype, tolerance):
    inputs = [x.requires_grad_() for x in draw(2, 5, 6, 4, dtype)]
    inputs.append(torch.randn(2, 6, 4, dtype=dtype, requires_grad=True))
    out, final = short_conv(*inputs[:3], state=inputs[3], output_final_state=True, backend=backend)
    copies = exact(inputs)
    expected = naive(*copies[:3], state=copies[3])
    of_final = torch.cat([copies[3].transpose(1, 2), copies[0]], 1)[:, -4:].transpose(1, 2)
    actual = torch.autograd.grad([out.sum(), final.square().sum()], inputs)
    assert_near(actual, torch.autograd.grad([expected.sum(), of_final.square().sum()], copies), tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_computed_in_float32(dtype):
    inputs = draw(2, 21, 8, 4, dtype)
    out, _ = short_conv(*inputs, backend="torch")
    assert out.dtype == dtype
    assert_near([out], [naive(*exact(inputs))], torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(6, 9)}, "W from 2 to 8"),
        ({"weight": torch.zeros(5, 4)}, "D = 6"),
        ({"bias": torch.zeros(5)}, "bias"),
        ({"x": torch.zeros(9, 6)}, "x"),
        ({"activation": "relu"}, "silu"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "batch of 1"),
        ({"state": torch.zeros(2, 6, 3)}, "state"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_refuses_contradictions(change, message):
    x, weight, bias = draw(2, 9, 6, 4, torch.float32)
    with pytest.raises(ValueError, match=message):
        short_conv(**{"x": x, "weight": weight, "bias": bias} | change)


@INTERPRETED
@pytest.mark.parametrize("with_state", [False, True])
def test_triton_operator_is_complete(with_state):
    from jetlit_kernels.short_conv.autograd import short_conv_op

    tensors = [x.requires_grad_() for x in draw(1, 9, 6, 3, torch.float32)]
    state = torch.randn(1, 6, 3) if with_state else None
    torch.library.opcheck(short_conv_op, (*tensors, state, None, True))
