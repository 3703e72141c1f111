"""Triton kernels of the short convolution. `launch` describes how they work together."""

from typing import no_type_check

import triton
import triton.language as tl

from jetlit_kernels.activations import silu, silu_slope


@triton.jit
def _before(x, state, row, back, position, owner, channel, mask, D, stride_x, W: tl.constexpr, HAS_STATE: tl.constexpr):
    """Return the input `back` tokens before `row`: of its sequence, else of the state, else zero."""
    inside = mask & (position >= back)
    value = tl.load(x + (row - back).to(tl.int64) * stride_x + channel, mask=inside, other=0.0)
    if HAS_STATE:
        slot = (owner.to(tl.int64) * D + channel) * W + (W + position - back)
        value += tl.load(state + slot, mask=mask & (position < back), other=0.0).to(value.dtype)
    return value


@triton.jit
def forward_kernel(
    x, weight, bias, state, positions, owners, out, M, T, D, stride_x, W: tl.constexpr, BT: tl.constexpr,
    BD: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr, HAS_STATE: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the output, [BT, BD]."""
    row = (tl.program_id(0) * BT + tl.arange(0, BT))[:, None]
    channel = (tl.program_id(1) * BD + tl.arange(0, BD))[None, :]
    mask = (row < M) & (channel < D)
    safe = tl.minimum(row, M - 1)
    position = tl.load(positions + safe) if PACKED else safe % T
    owner = tl.load(owners + safe) if PACKED else safe // T
    y = tl.zeros([BT, BD], dtype=tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + channel, mask=channel < D, other=0.0).to(tl.float32)
    for j in tl.static_range(W):
        tap = tl.load(weight + channel * W + j, mask=channel < D, other=0.0).to(tl.float32)
        y += tap * _before(
            x, state, row, W - 1 - j, position, owner, channel, mask, D, stride_x, W, HAS_STATE
        ).to(tl.float32)  # fmt: skip
    if SILU:
        y = silu(y)
    tl.store(out + row.to(tl.int64) * D + channel, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check  # Triton unrolls the tuples that grow
def backward_kernel(
    d_out, x, weight, bias, state, positions, owners, d_x, d_weight, M, T, D, stride_x, stride_d, segment,
    W: tl.constexpr, BD: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr, HAS_STATE: tl.constexpr,
    HAS_BIAS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute the inputs' gradient for `segment` rows and BD channels, and these rows' part of the parameters'.

    One row after the other, W − 1 rows further than the segment, since an input's gradient takes those of the W − 1
    tokens after it. It is summed in W − 1 registers that move on by one with every row. `d_weight` is
    [segments, W + 1, D]; the last row of a segment is the bias'.
    """
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    in_range = channel < D
    start = tl.program_id(0) * segment
    end = tl.minimum(start + segment, M)
    zero = tl.zeros([BD], dtype=tl.float32)
    shift = zero
    if HAS_BIAS:
        shift += tl.load(bias + channel, mask=in_range, other=0.0).to(tl.float32)
    taps, sums, pending = (), (), ()
    for j in tl.static_range(W):
        taps += (tl.load(weight + channel * W + j, mask=in_range, other=0.0).to(tl.float32),)
        sums += (zero,)
        pending += (zero,)
    of_bias = zero
    for step in tl.range(0, end - start + W - 1, num_stages=STAGES):
        row = start + step
        exists = in_range & (row < M)
        safe = tl.minimum(row, M - 1)
        position = tl.load(positions + safe) if PACKED else safe % T
        owner = tl.load(owners + safe) if PACKED else safe // T
        y = shift
        window = ()
        for j in tl.static_range(W):
            value = _before(
                x, state, row, W - 1 - j, position, owner, channel, exists, D, stride_x, W, HAS_STATE
            ).to(tl.float32)  # fmt: skip
            y += taps[j] * value
            window += (value,)
        d_y = tl.load(d_out + row.to(tl.int64) * stride_d + channel, mask=exists, other=0.0).to(tl.float32)
        if SILU:
            d_y *= silu_slope(y)

        d_y_own = tl.where(in_range & (row < end), d_y, 0.0)
        of_bias += d_y_own
        new_sums, moved = (), ()
        for j in tl.static_range(W):
            new_sums += (sums[j] + d_y_own * window[j],)
            moved += (pending[j] + tl.where(position >= W - 1 - j, taps[j], 0.0) * d_y,)
        sums = new_sums
        done = row - (W - 1)
        tl.store(
            d_x + done.to(tl.int64) * D + channel, moved[0].to(d_x.dtype.element_ty), mask=in_range & (done >= start)
        )
        pending = moved[1:] + (zero,)  # noqa: RUF005
    place = d_weight + tl.program_id(0).to(tl.int64) * ((W + 1) * D) + channel
    for j in tl.static_range(W):
        tl.store(place + j * D, sums[j], mask=in_range)
    tl.store(place + W * D, of_bias, mask=in_range)


@triton.jit
def final_state_kernel(
    x, state, bounds, final, T, D, stride_x, W: tl.constexpr, BD: tl.constexpr, PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr,
):  # fmt: skip
    """Store the last W inputs of one sequence and BD channels."""
    sequence = tl.program_id(0)
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    mask = channel < D
    first = tl.load(bounds + sequence).to(tl.int64) if PACKED else sequence.to(tl.int64) * T
    end = tl.load(bounds + sequence + 1).to(tl.int64) if PACKED else first + T
    for j in tl.static_range(W):
        value = _before(
            x, state, end, W - j, (end - first).to(tl.int32), sequence, channel, mask, D, stride_x, W, HAS_STATE
        )  # fmt: skip
        place = (sequence.to(tl.int64) * D + channel) * W + j
        tl.store(final + place, value.to(final.dtype.element_ty), mask=mask)
