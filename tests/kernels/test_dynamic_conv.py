"""dynamic_conv against the checkpoint format's definition, written out token by token in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jetlit_kernels import dynamic_conv

from tests.kernels.backends import BACKENDS, INTERPRETED, assert_near


def naive(v, hidden, weight, bias, activation="silu", state=None, bounds=None):
    """conv[t, d] = Σ_j w[t, d, j] · v[t − W + 1 + j, d], one sequence and one token at a time."""
    channels, taps = v.shape[-1], weight.shape[0] // v.shape[-1]
    if bounds is not None:
        pieces = [
            naive(v[:, a:b], hidden[:, a:b], weight, bias, activation, None if state is None else state[n : n + 1])
            for n, (a, b) in enumerate(itertools.pairwise(bounds))
        ]
        return torch.cat(pieces, dim=1)
    kernels = (hidden @ weight.T + bias).view(*v.shape, taps)
    rows = []
    for t in range(v.shape[1]):
        row = torch.zeros_like(v[:, t])
        for j in range(taps):
            source = t - taps + 1 + j
            if source >= 0:
                row = row + kernels[:, t, :, j] * v[:, source]
            elif state is not None:
                row = row + kernels[:, t, :, j] * state[:, :, taps + source]
        rows.append(row)
    out = torch.stack(rows, dim=1) if rows else v.new_zeros(v.shape[0], 0, channels)
    return F.silu(out) if activation == "silu" else out


def draw(batch, length, channels, rank, taps, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, channels), (batch, length, rank), (channels * taps, rank), (channels * taps,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def exact(tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


@BACKENDS
@pytest.mark.parametrize("taps", [2, 3, 4, 8])
@pytest.mark.parametrize("length", [1, 3, 37])
def test_matches_definition(length, taps, backend, dtype, tolerance):
    inputs = [x.requires_grad_() for x in draw(2, length, 18, 5, taps, dtype)]
    state = torch.randn(2, 18, taps, dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, length, 18, dtype=dtype)
    out, final = dynamic_conv(*inputs, state=state, backend=backend)
    *inputs_exact, state_exact = exact([*inputs, state])
    expected = naive(*inputs_exact, state=state_exact)
    assert final is None
    assert_near([out], [expected], tolerance)
    assert_near(
        torch.autograd.grad(out, [*inputs, state], upstream),
        torch.autograd.grad(expected, [*inputs_exact, state_exact], upstream.double()),
        tolerance,
    )


@BACKENDS
def test_no_state_no_activation_and_several_tiles(backend, dtype, tolerance, monkeypatch):
    if backend == "triton":  # several stretches of several segments each
        from jetlit_kernels.dynamic_conv import launch

        monkeypatch.setattr(launch, "STRETCH", 48)
        monkeypatch.setattr(launch, "SEGMENT", 16)
    inputs = [x.requires_grad_() for x in draw(2, 70, 33, 40, 4, dtype)]
    upstream = torch.randn(2, 70, 33, dtype=dtype)
    out, _ = dynamic_conv(*inputs, activation=None, backend=backend)
    copies = exact(inputs)
    expected = naive(*copies, activation=None)
    assert_near([out], [expected], tolerance)
    assert_near(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(expected, copies, upstream.double()), tolerance
    )


@BACKENDS
@pytest.mark.parametrize("layout", ["wide rows", "every other column", "off by one"])
def test_parameters_may_lie_anyhow(layout, backend, dtype, tolerance):
    v, hidden, weight, bias = draw(1, 9, 6, 8, 3, dtype)
    rows, rank = weight.shape
    memory = torch.full((rows + 1, 2 * rank), float("nan"), dtype=dtype)
    if layout == "off by one":
        memory = memory.flatten()[1 : 1 + rows * rank].view(rows, rank)
    laid = memory[:rows, ::2] if layout == "every other column" else memory[:rows, :rank]
    laid.copy_(weight)
    spread = torch.stack([bias, torch.full_like(bias, float("nan"))], 1)[:, 0]
    out, _ = dynamic_conv(v, hidden, laid, spread, backend=backend)
    assert_near([out], [naive(*exact([v, hidden, weight, bias]))], tolerance)


@BACKENDS
@settings(max_examples=8, derandomize=True)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), taps=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_chunk_after_chunk_is_one_pass(backend, dtype, tolerance, lengths, taps, seed):
    v, hidden, weight, bias = draw(2, sum(lengths), 3, 4, taps, dtype, seed)
    whole, final = dynamic_conv(v, hidden, weight, bias, output_final_state=True, backend=backend)
    state, pieces = None, []
    for piece_v, piece_hidden in zip(v.split(lengths, 1), hidden.split(lengths, 1), strict=True):
        out, state = dynamic_conv(
            piece_v, piece_hidden, weight, bias, state=state, output_final_state=True, backend=backend
        )
        pieces.append(out)
    assert_near([torch.cat(pieces, 1)], [whole], tolerance)
    assert torch.equal(state, final)
    assert torch.equal(final, F.pad(v, (0, 0, taps, 0))[:, -taps:].transpose(1, 2))


@BACKENDS
@settings(max_examples=8, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    taps=st.integers(2, 8),
    with_state=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_packed_is_each_sequence_alone(backend, dtype, tolerance, lengths, taps, with_state, seed):
    inputs = [x.requires_grad_() for x in draw(1, sum(lengths), 3, 4, taps, dtype, seed)]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    if with_state:
        inputs.append(torch.randn(len(lengths), 3, taps, dtype=dtype, requires_grad=True))
    state = inputs[4] if with_state else None
    out, final = dynamic_conv(*inputs[:4], state=state, output_final_state=True, cu_seqlens=bounds, backend=backend)
    copies = exact(inputs)
    expected = naive(*copies[:4], state=copies[4] if with_state else None, bounds=bounds.tolist())
    assert_near([out], [expected], tolerance)
    for n, (a, b) in enumerate(itertools.pairwise(bounds.tolist())):
        history = torch.zeros(taps, 3) if state is None else state[n].T
        assert torch.equal(final[n].T, torch.cat([history.to(dtype), inputs[0][0, a:b]])[-taps:])
    assert_near(
        torch.autograd.grad(out, inputs, torch.ones_like(out)),
        torch.autograd.grad(expected, copies, torch.ones_like(expected)),
        tolerance,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_are_computed_in_float32(dtype):
    inputs = draw(2, 21, 8, 6, 4, dtype)
    out, _ = dynamic_conv(*inputs, backend="torch")
    assert out.dtype == dtype
    assert_near([out], [naive(*exact(inputs))], torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(6, 5)}, "W from 2 to 8"),
        ({"bias": torch.zeros(6)}, "bias"),
        ({"hidden": torch.zeros(2, 8, 5)}, "same B and T"),
        ({"activation": "relu"}, "silu"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "batch of 1"),
        ({"state": torch.zeros(2, 6, 3)}, "state"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_refuses_contradictions(change, message):
    v, hidden, weight, bias = draw(2, 9, 6, 5, 4, torch.float32)
    arguments = {"v": v, "hidden": hidden, "weight": weight, "bias": bias} | change
    with pytest.raises(ValueError, match=message):
        dynamic_conv(**arguments)


@INTERPRETED
@pytest.mark.parametrize("state", ["none", "given", "trained"])
def test_triton_operator_is_complete(state):
    from jetlit_kernels.dynamic_conv.autograd import dynamic_conv_op

    tensors = [x.requires_grad_() for x in draw(1, 9, 6, 8, 3, torch.float32)]
    carried = None if state == "none" else torch.randn(1, 6, 3).requires_grad_(state == "trained")
    torch.library.opcheck(dynamic_conv_op, (*tensors, carried, None, True, state == "trained"))
