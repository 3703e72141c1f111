"""dynamic_conv against the checkpoint format's definition, written out token by token in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jetlit_kernels import dynamic_conv


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


def relative(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("taps", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("length", [1, 3, 17])
def test_matches_definition(taps, length):
    inputs = draw(2, length, 6, 5, taps)
    out, state = dynamic_conv(*inputs, backend="torch")
    torch.testing.assert_close(out, naive(*inputs))
    assert state is None


def test_gradients_match_definition():
    inputs = [x.requires_grad_() for x in draw(2, 9, 5, 4, 4)]
    state = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 9, 5, dtype=torch.float64)
    out, _ = dynamic_conv(*inputs, state=state, backend="torch")
    actual = torch.autograd.grad(out, [*inputs, state], upstream)
    expected = torch.autograd.grad(naive(*inputs, state=state), [*inputs, state], upstream)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), taps=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_chunk_after_chunk_is_one_pass(lengths, taps, seed):
    v, hidden, weight, bias = draw(2, sum(lengths), 3, 4, taps, seed=seed)
    whole, final = dynamic_conv(v, hidden, weight, bias, output_final_state=True, backend="torch")
    state, pieces = None, []
    for piece_v, piece_hidden in zip(v.split(lengths, 1), hidden.split(lengths, 1), strict=True):
        out, state = dynamic_conv(
            piece_v, piece_hidden, weight, bias, state=state, output_final_state=True, backend="torch"
        )
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    torch.testing.assert_close(state, final)
    torch.testing.assert_close(final, F.pad(v, (0, 0, taps, 0))[:, -taps:].transpose(1, 2))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    taps=st.integers(2, 8),
    with_state=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_packed_is_each_sequence_alone(lengths, taps, with_state, seed):
    v, hidden, weight, bias = draw(1, sum(lengths), 3, 4, taps, seed=seed)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    state = torch.randn(len(lengths), 3, taps, dtype=torch.float64) if with_state else None
    out, final = dynamic_conv(
        v, hidden, weight, bias, state=state, output_final_state=True, cu_seqlens=bounds, backend="torch"
    )
    torch.testing.assert_close(out, naive(v, hidden, weight, bias, state=state, bounds=bounds.tolist()))
    for n, (a, b) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        history = v.new_zeros(taps, 3) if state is None else state[n].T
        torch.testing.assert_close(final[n].T, torch.cat([history, v[0, a:b]])[-taps:])


def test_without_activation_and_in_bfloat16():
    exact = draw(2, 21, 8, 6, 4)
    rounded = [x.bfloat16() for x in exact]
    out, _ = dynamic_conv(*rounded, activation=None, backend="torch")
    assert out.dtype == torch.bfloat16
    assert relative(out, naive(*[x.double() for x in rounded], activation=None)) < 5e-3


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
