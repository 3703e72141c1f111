"""Triton kernels of the dynamic convolution. `launch` describes how they work together."""

from typing import no_type_check

import triton
import triton.language as tl

from jetlit_kernels.activations import sigmoid, silu_slope


@triton.jit
def _generate(
    hidden, weight, bias, D, R, W: tl.constexpr, WP: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the kernels of a tile, [BT, WP, BD] float32.

    `hidden` [M, R] and `weight` [W, D, R] are descriptors, which read zeros out of range. The sum begins with the bias:
    added last, it costs registers that the second program of a multiprocessor needs.
    """
    first = tl.program_id(0) * BD
    column = tl.arange(0, WP * BD)
    tap, channel = column // BD, first + column % BD
    b = tl.load(bias + channel * W + tap, mask=(tap < W) & (channel < D), other=0.0).to(tl.float32)
    total = tl.broadcast_to(b[None, :], [BT, WP * BD])
    for r in range(0, R, BR):
        h = hidden.load([tl.program_id(1) * BT, r])
        w = tl.reshape(weight.load([0, first, r]), [WP * BD, BR])
        total = tl.dot(h, w.T, total, input_precision=PRECISION)
    return tl.reshape(total, [BT, WP, BD])


@triton.jit
def _window(
    v, state, positions, owners, rows, M, T, D, stride_v, W: tl.constexpr, WP: tl.constexpr, BD: tl.constexpr,
    PACKED: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """Return the inputs under each tap, [BT, WP, BD] in the dtype of v; zero for taps past W.

    Called before `_generate`: Triton then moves these 16-bit values into the layout of the product, not its float32
    result into theirs, and they arrive during the product.
    """
    channel = (tl.program_id(0) * BD + tl.arange(0, BD))[None, None, :]
    back = W - 1 - tl.arange(0, WP)[None, :, None]
    safe = tl.minimum(rows, M - 1)
    position = (tl.load(positions + safe) if PACKED else safe % T)[:, None, None]
    tap = (back >= 0) & (channel < D)
    source = v + (safe[:, None, None] - back).to(tl.int64) * stride_v + channel
    x = tl.load(source, mask=tap & (position >= back), other=0.0)
    if HAS_STATE:
        owner = (tl.load(owners + safe) if PACKED else safe // T)[:, None, None]
        slot = (owner.to(tl.int64) * D + channel) * W + (W + position - back)
        x += tl.load(state + slot, mask=tap & (position < back), other=0.0).to(x.dtype)
    return x


@triton.jit
def forward_kernel(
    v, hidden, weight, bias, state, positions, owners, out, M, T, D, R, stride_v, W: tl.constexpr, WP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr,
    HAS_STATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the output, [BT, BD]."""
    rows = tl.program_id(1) * BT + tl.arange(0, BT)
    x = _window(v, state, positions, owners, rows, M, T, D, stride_v, W, WP, BD, PACKED, HAS_STATE)
    kernels = _generate(hidden, weight, bias, D, R, W, WP, BT, BD, BR, PRECISION)
    y = tl.sum(kernels * x.to(tl.float32), axis=1)
    if SILU:
        y *= sigmoid(y)
    channel = tl.program_id(0) * BD + tl.arange(0, BD)
    mask = (rows < M)[:, None] & (channel < D)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * D + channel[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check  # Triton unrolls the tuples that grow
def backward_kernel(
    d_out, kernels, bias, v, state, positions, owners, d_v, d_kernels, d_bias, first, last, M, T, D, stride_v,
    segment, W: tl.constexpr, BD: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr, HAS_STATE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of inputs and kernels for `segment` rows and BD channels, one row after the other.

    `kernels` and `d_kernels` are [rows, W, D], row 0 being row `first`; `kernels` reaches W − 1 rows further, since an
    input's gradient takes kernels of the W − 1 tokens after it. It is summed in W − 1 registers that move on by one
    with every row.
    """
    channel = tl.program_id(0) * BD + tl.arange(0, BD)
    in_range = channel < D
    start = first + tl.program_id(1) * segment
    end = tl.minimum(start + segment, last)
    zero = tl.zeros([BD], dtype=tl.float32)
    biases, sums, pending = (), (), ()
    for j in tl.static_range(W):
        biases += (tl.load(bias + j * D + channel, mask=in_range, other=0.0).to(tl.float32),)
        sums += (zero,)
        pending += (zero,)
    for step in tl.range(0, end - start + W - 1, num_stages=STAGES):
        row = start + step
        exists = in_range & (row < M)
        safe = tl.minimum(row, M - 1)
        position = tl.load(positions + safe) if PACKED else safe % T
        line = (row - first).to(tl.int64) * (W * D) + channel
        y = zero
        taps, window = (), ()
        for j in tl.static_range(W):
            tap = tl.load(kernels + line + j * D, mask=exists, other=0.0).to(tl.float32) + biases[j]
            inside = exists & (position >= W - 1 - j)
            x = tl.load(v + (row - (W - 1 - j)).to(tl.int64) * stride_v + channel, mask=inside, other=0.0)
            if HAS_STATE:
                owner = tl.load(owners + safe) if PACKED else safe // T
                slot = (owner.to(tl.int64) * D + channel) * W + (position + j + 1)
                x += tl.load(state + slot, mask=exists & (position < W - 1 - j), other=0.0).to(x.dtype)
            x = x.to(tl.float32)
            y += tap * x
            taps += (tl.where(inside, tap, 0.0),)
            window += (x,)
        d_y = tl.load(d_out + row.to(tl.int64) * D + channel, mask=exists, other=0.0).to(tl.float32)
        if SILU:
            d_y *= silu_slope(y)

        own = in_range & (row < end)
        d_y_own = tl.where(own, d_y, 0.0)
        new_sums, moved = (), ()
        for j in tl.static_range(W):
            d_tap = d_y_own * window[j]
            tl.store(d_kernels + line + j * D, d_tap.to(d_kernels.dtype.element_ty), mask=own)
            new_sums += (sums[j] + d_tap,)
            moved += (pending[j] + taps[j] * d_y,)
        sums = new_sums
        done = row - (W - 1)
        tl.store(
            d_v + done.to(tl.int64) * D + channel, moved[0].to(d_v.dtype.element_ty), mask=in_range & (done >= start)
        )
        pending = moved[1:] + (zero,)  # noqa: RUF005
    for j in tl.static_range(W):
        tl.store(d_bias + tl.program_id(1).to(tl.int64) * (W * D) + j * D + channel, sums[j], mask=in_range)
