"""Triton dynamic convolution.

Forward: a program makes the kernels of BT tokens and BD channels with one matrix product (columns ordered tap by tap,
so that a thread holds all taps of a channel) and uses them at once: they live in registers only.

Backward: stretch by stretch of rows, library products make the kernels and use their gradients, and one kernel between
them, bound by memory, does the rest; the stretch's scratch is all that is ever held of either. A fused product was
measured slower here: see benchmarks/results/kernel_notebook.md.

The batch and time dimensions are one dimension of M rows; a row's position in its sequence says which taps look before
the start, for batches and packed sequences alike.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from jetlit_kernels.activations import sigmoid, silu_slope
from jetlit_kernels.chunks import cdiv
from jetlit_kernels.descriptors import described
from jetlit_kernels.sizes import power_of_two


@dataclass(frozen=True)
class Tile:
    """Sizes of one program.

    Attributes:
        rows: tokens.
        columns: taps, rounded up to a power of two, times channels.
        inner: of the sum, a step.
        warps: warps a program.
        stages: stages of the loads' pipeline.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


# Measured (benchmarks/results/kernel_notebook.md); float32 runs without tensor cores, in small tiles.
FORWARD = Tile(rows=128, columns=128, inner=64, warps=8, stages=3)
SINGLE = Tile(rows=32, columns=64, inner=32, warps=4, stages=2)
# Rows held at a time in the backward pass: fewer make its library products inefficient.
STRETCH = 8192
SEGMENT, BLOCK, WARPS, STAGES = 64, 512, 4, 3


@triton.jit
def _generate(
    hidden, weight, bias, D, R, W: tl.constexpr, WP: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Kernels of a tile, [BT, WP, BD] float32.

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
    """The inputs under each tap, [BT, WP, BD] in the type of v; zero for taps past W.

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
    """One tile of the output, [BT, BD]."""
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
    """Gradients of the inputs and of the kernels for `segment` rows and BD channels, one row after the other.

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


@dataclass(frozen=True)
class Sequences:
    """Where each of the M rows stands: its position in its sequence and, for a state, its sequence's number."""

    positions: torch.Tensor | None
    owners: torch.Tensor | None

    @classmethod
    def of(cls, cu_seqlens: torch.Tensor | None, rows: int) -> "Sequences":
        """Positions of `rows` packed rows; None for plain batches, whose positions the kernels compute."""
        if cu_seqlens is None:
            return cls(None, None)
        index = torch.arange(rows, device=cu_seqlens.device)
        owners = torch.searchsorted(cu_seqlens, index, right=True) - 1
        return cls((index - cu_seqlens[owners]).int(), owners.int())


def forward(
    v: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    silu: bool,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Output [B, T, D] of the convolution; arguments as those of `jetlit_kernels.dynamic_conv`."""
    batch, length, channels = v.shape
    rows, rank = batch * length, hidden.shape[2]
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if not out.numel():
        return out
    exact = v.dtype == torch.float32
    tile = tile or (SINGLE if exact else FORWARD)
    taps = weight.shape[0] // channels
    tap_columns = power_of_two(taps)
    block = tile.columns // tap_columns
    hidden_rows = described(hidden.to(v.dtype).reshape(rows, rank), [tile.rows, tile.inner])
    by_tap = weight.to(v.dtype).unflatten(0, (channels, taps)).transpose(0, 1)
    tap_weight = described(by_tap, [tap_columns, block, tile.inner])
    v, stride_v = _rows(v)
    sequences = Sequences.of(cu_seqlens, rows)
    forward_kernel[(cdiv(channels, block), cdiv(rows, tile.rows))](
        v, hidden_rows, tap_weight, bias.contiguous(), None if state is None else state.contiguous(),
        sequences.positions, sequences.owners, out, rows, length, channels, rank, stride_v, W=taps, WP=tap_columns,
        BT=tile.rows, BD=block, BR=tile.inner, SILU=silu, PACKED=cu_seqlens is not None, HAS_STATE=state is not None,
        PRECISION="ieee" if exact else "tf32", num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def backward(
    d_out: torch.Tensor,
    v: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    silu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of v, hidden, weight and bias, each in its own type; those of the last two are summed in float32."""
    batch, length, channels = v.shape
    rows, rank, outputs = batch * length, hidden.shape[2], weight.shape[0]
    taps = outputs // channels
    v, stride_v = _rows(v)
    d_v = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    d_hidden = torch.empty(rows, rank, dtype=v.dtype, device=v.device)
    d_weight = torch.zeros(outputs, rank, dtype=torch.float32, device=v.device)
    segments = cdiv(rows, SEGMENT)
    d_bias = torch.empty(segments, outputs, dtype=torch.float32, device=v.device)

    hidden_rows = hidden.to(v.dtype).reshape(rows, rank)
    tap_weight, tap_bias = _by_tap(weight.to(v.dtype), taps), _by_tap(bias, taps)
    kernels = torch.empty(min(STRETCH + taps - 1, rows), outputs, dtype=v.dtype, device=v.device)
    d_kernels = torch.empty(min(STRETCH, rows), outputs, dtype=v.dtype, device=v.device)
    sequences = Sequences.of(cu_seqlens, rows)
    d_out = d_out.contiguous()
    state = None if state is None else state.contiguous()
    for first in range(0, rows, STRETCH):
        last = min(first + STRETCH, rows)
        reach = min(last + taps - 1, rows)
        torch.mm(hidden_rows[first:reach], tap_weight.T, out=kernels[: reach - first])
        backward_kernel[(cdiv(channels, BLOCK), cdiv(last - first, SEGMENT))](
            d_out, kernels, tap_bias, v, state, sequences.positions, sequences.owners, d_v, d_kernels,
            d_bias[first // SEGMENT :], first, last, rows, length, channels, stride_v, SEGMENT, W=taps, BD=BLOCK,
            SILU=silu, PACKED=cu_seqlens is not None, HAS_STATE=state is not None,
            STAGES=STAGES, num_warps=WARPS,
        )  # fmt: skip
        torch.mm(d_kernels[: last - first], tap_weight, out=d_hidden[first:last])
        _add_product(d_weight, d_kernels[: last - first].T, hidden_rows[first:last])
    return (
        d_v,
        d_hidden.view(hidden.shape).to(hidden.dtype),
        _by_channel(d_weight, taps, weight.dtype),
        _by_channel(d_bias.sum(0), taps, bias.dtype),
    )


def _rows(v: torch.Tensor) -> tuple[torch.Tensor, int]:
    """`v` [B, T, D] as B·T rows a constant stride apart: itself if it is so laid out, else a copy; and the stride."""
    batch, length, _ = v.shape
    if v.stride(2) != 1 or (batch > 1 and v.stride(0) != length * v.stride(1)):
        v = v.contiguous()
    return v, v.stride(1)


def _by_tap(x: torch.Tensor, taps: int) -> torch.Tensor:
    """[D·W, ...] to [W·D, ...]."""
    return x.unflatten(0, (-1, taps)).transpose(0, 1).flatten(0, 1).contiguous()


def _by_channel(x: torch.Tensor, taps: int, dtype: torch.dtype) -> torch.Tensor:
    """[W·D, ...] to [D·W, ...], cast by the copy that reorders."""
    ordered = x.unflatten(0, (taps, -1)).transpose(0, 1)
    return ordered.to(dtype, copy=True, memory_format=torch.contiguous_format).flatten(0, 1)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Total += a @ b, summed in float32 whatever the type of the factors."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
