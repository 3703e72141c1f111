"""Triton dynamic convolution: the generated kernels live in registers only, forward and backward.

A program makes the kernels of BT tokens and BD channels with one matrix product (columns ordered tap by tap, so that a
thread holds all taps of a channel) and uses them at once. The batch and time dimensions are one dimension of M rows;
a row's position in its sequence says which taps look before the start, for batches and packed sequences alike.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Tile:
    """Sizes of one program: BT rows, COLUMNS = taps (rounded up to a power of two) x channels, BR of the inner sum."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


# Measured on an H200 (benchmarks/results/kernel_notebook.md); float32 runs without tensor cores, in small tiles.
FORWARD = Tile(rows=128, columns=128, inner=64, warps=4, stages=3)
BACKWARD = Tile(rows=128, columns=128, inner=64, warps=8, stages=3)
SINGLE = Tile(rows=32, columns=64, inner=32, warps=4, stages=2)
# The gradients of the kernels are held for as many rows as fit in this, between the two products that consume them.
SCRATCH_BYTES = 192 * 2**20


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _generate(
    hidden, weight, bias, rows, M, D, R, W: tl.constexpr, WP: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    BR: tl.constexpr, EVEN_R: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Kernels of a tile, [BT, WP, BD] float32; rows, channels and taps out of range hold copies of the last ones."""
    column = tl.arange(0, WP * BD)
    channel = tl.minimum(tl.program_id(0) * BD + column % BD, D - 1)
    source = channel * W + tl.minimum(column // BD, W - 1)
    r = tl.arange(0, BR)
    h_ptr = hidden + tl.minimum(rows, M - 1).to(tl.int64)[:, None] * R + r[None, :]
    w_ptr = weight + source.to(tl.int64)[None, :] * R + r[:, None]
    total = tl.zeros([BT, WP * BD], dtype=tl.float32)
    for start in range(0, R, BR):
        if EVEN_R:
            h = tl.load(h_ptr)
            w = tl.load(w_ptr)
        else:
            h = tl.load(h_ptr, mask=r[None, :] < R - start, other=0.0)
            w = tl.load(w_ptr, mask=r[:, None] < R - start, other=0.0)
        total = tl.dot(h, w, total, input_precision=PRECISION)
        h_ptr += BR
        w_ptr += BR
    total += tl.load(bias + source).to(tl.float32)[None, :]
    return tl.reshape(total, [BT, WP, BD])


@triton.jit
def _inside(positions, rows, M, T, W: tl.constexpr, WP: tl.constexpr, PACKED: tl.constexpr):
    """Whether the input under each tap lies inside the row's sequence, [BT, WP, 1]; false for taps past W."""
    safe = tl.minimum(rows, M - 1)
    position = tl.load(positions + safe) if PACKED else safe % T
    back = W - 1 - tl.arange(0, WP)[None, :, None]
    return (back >= 0) & (position[:, None, None] >= back)


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
    inside = _inside(positions, rows, M, T, W, WP, PACKED) & (channel < D)
    x = tl.load(v + (safe[:, None, None] - back).to(tl.int64) * stride_v + channel, mask=inside, other=0.0)
    if HAS_STATE:
        position = (tl.load(positions + safe) if PACKED else safe % T)[:, None, None]
        owner = (tl.load(owners + safe) if PACKED else safe // T)[:, None, None]
        before = (back >= 0) & (position < back) & (channel < D)
        line = (owner.to(tl.int64) * D + channel) * W
        x += tl.load(state + line + (W + position - back), mask=before, other=0.0).to(x.dtype)
    return x


@triton.jit
def forward_kernel(
    v, hidden, weight, bias, state, positions, owners, out, M, T, D, R, stride_v, W: tl.constexpr, WP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, EVEN_R: tl.constexpr, SILU: tl.constexpr,
    PACKED: tl.constexpr, HAS_STATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the output, [BT, BD]."""
    rows = tl.program_id(1) * BT + tl.arange(0, BT)
    x = _window(v, state, positions, owners, rows, M, T, D, stride_v, W, WP, BD, PACKED, HAS_STATE)
    kernels = _generate(hidden, weight, bias, rows, M, D, R, W, WP, BT, BD, BR, EVEN_R, PRECISION)
    y = tl.sum(kernels * x.to(tl.float32), axis=1)
    if SILU:
        y *= _sigmoid(y)
    channel = tl.program_id(0) * BD + tl.arange(0, BD)
    mask = (rows < M)[:, None] & (channel < D)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * D + channel[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    d_out, v, hidden, weight, bias, state, positions, owners, d_v, d_kernels, d_bias, first, last, M, T, D, R,
    stride_v, W: tl.constexpr, WP: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
    EVEN_R: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr, HAS_STATE: tl.constexpr, PRECISION: tl.constexpr,
    SHIFT: tl.constexpr = "gather",
):  # fmt: skip
    """Gradients of the inputs and of the kernels for the first BT − W + 1 rows of a tile.

    An input's gradient takes kernels of up to W − 1 later tokens, so neighbouring tiles overlap by W − 1 rows.
    """
    OWNED: tl.constexpr = BT - W + 1
    line = tl.arange(0, BT)
    rows = first + tl.program_id(1) * OWNED + line
    channel = tl.program_id(0) * BD + tl.arange(0, BD)
    in_range = (channel < D)[None, :]
    owned = ((line < OWNED) & (rows < last))[:, None]
    tap = tl.arange(0, WP)
    address = rows.to(tl.int64)[:, None] * D + channel[None, :]
    x = _window(v, state, positions, owners, rows, M, T, D, stride_v, W, WP, BD, PACKED, HAS_STATE)
    d_y = tl.load(d_out + address, mask=(rows < M)[:, None] & in_range, other=0.0).to(tl.float32)
    kernels = _generate(hidden, weight, bias, rows, M, D, R, W, WP, BT, BD, BR, EVEN_R, PRECISION)
    x = x.to(tl.float32)
    if SILU:
        y = tl.sum(kernels * x, axis=1)
        gate = _sigmoid(y)
        d_y *= gate * (1.0 + y * (1.0 - gate))

    d_k = x * tl.where(owned, d_y, 0.0)[:, None, :]
    tl.store(
        d_bias + tl.program_id(1).to(tl.int64) * D * W + channel[None, :] * W + tap[:, None],
        tl.sum(d_k, axis=0),
        mask=in_range & (tap < W)[:, None],
    )
    column = tl.arange(0, BD * WP)
    k_channel = tl.program_id(0) * BD + column // WP
    d_k = tl.permute(d_k.to(d_kernels.dtype.element_ty), (0, 2, 1))
    tl.store(
        d_kernels + (rows - first).to(tl.int64)[:, None] * D * W + (k_channel * W + column % WP)[None, :],
        tl.reshape(d_k, [BT, BD * WP]),
        mask=owned & ((k_channel < D) & (column % WP < W))[None, :],
    )

    part = tl.where(_inside(positions, rows, M, T, W, WP, PACKED), kernels * d_y[:, None, :], 0.0)
    if SHIFT == "gather":
        later = tl.minimum(line[:, None, None] + tl.maximum(W - 1 - tap, 0)[None, :, None], BT - 1)
        total = tl.sum(tl.gather(part, tl.broadcast_to(later, [BT, WP, BD]), 0), axis=1)
    else:
        total = tl.zeros([BT, BD], dtype=tl.float32)
        for j in tl.static_range(W):
            one = tl.sum(tl.where((tap == j)[None, :, None], part, 0.0), axis=1).to(hidden.dtype.element_ty)
            shift = (line[:, None] + (W - 1 - j) == line[None, :]).to(hidden.dtype.element_ty)
            total = tl.dot(shift, one, total, input_precision=PRECISION)
    tl.store(d_v + address, total.to(d_v.dtype.element_ty), mask=owned & in_range)


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
    call = _Call(v, hidden, weight, bias, state, cu_seqlens, silu, tile or (SINGLE if _exact(v) else FORWARD))
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if out.numel():
        grid = (call.channel_blocks, triton.cdiv(call.rows, call.tile.rows))
        forward_kernel[grid](*call.inputs, out, *call.sizes, **call.constants)
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
    tile: Tile | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of v, hidden, weight and bias, each in its own type.

    Stretch by stretch of rows: a kernel remakes the kernels, writes the gradient of `v` and that of the kernels into a
    scratch, and two library products turn the scratch into the gradients of `hidden` and `weight` (summed in float32).
    """
    call = _Call(v, hidden, weight, bias, state, cu_seqlens, silu, tile or (SINGLE if _exact(v) else BACKWARD))
    d_v = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    d_hidden = torch.empty_like(call.hidden)
    d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=v.device)
    if not v.numel():
        return d_v, d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), torch.zeros_like(bias)

    owned = call.tile.rows - call.taps + 1
    fit = max(scratch_bytes // (weight.shape[0] * v.element_size()) // owned, 1)
    blocks = triton.cdiv(call.rows, owned)
    blocks_each = triton.cdiv(blocks, triton.cdiv(blocks, fit))
    step = blocks_each * owned
    scratch = torch.empty(min(step, call.rows), weight.shape[0], dtype=v.dtype, device=v.device)
    d_bias = torch.empty(blocks, weight.shape[0], dtype=torch.float32, device=v.device)
    flat_hidden, flat_d_hidden = call.hidden.view(call.rows, -1), d_hidden.view(call.rows, -1)
    d_out = d_out.contiguous()
    for number, first in enumerate(range(0, call.rows, step)):
        last = min(first + step, call.rows)
        partial_bias = d_bias[number * blocks_each :]
        grid = (call.channel_blocks, triton.cdiv(last - first, owned))
        backward_kernel[grid](
            d_out, *call.inputs, d_v, scratch, partial_bias, first, last, *call.sizes, **call.constants
        )  # fmt: skip
        d_kernels = scratch[: last - first]
        torch.mm(d_kernels, call.weight, out=flat_d_hidden[first:last])
        _add_product(d_weight, d_kernels.T, flat_hidden[first:last])
    return (
        d_v,
        d_hidden.view(hidden.shape).to(hidden.dtype),
        d_weight.to(weight.dtype),
        d_bias.sum(0).to(bias.dtype),
    )


def _exact(v: torch.Tensor) -> bool:
    return v.dtype == torch.float32


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Total += a @ b, summed in float32 whatever the type of the factors."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())


class _Call:
    """One launch's tensors, sizes and compile-time constants, the same for both directions."""

    def __init__(
        self,
        v: torch.Tensor,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        state: torch.Tensor | None,
        cu_seqlens: torch.Tensor | None,
        silu: bool,
        tile: Tile,
    ) -> None:
        batch, length, channels = v.shape
        self.tile = tile
        self.rows = batch * length
        self.taps = weight.shape[0] // channels
        if v.stride(2) != 1 or (batch > 1 and v.stride(0) != length * v.stride(1)):
            v = v.contiguous()
        self.hidden = hidden.to(v.dtype).contiguous()
        self.weight = weight.to(v.dtype).contiguous()
        bias = bias.contiguous()
        state = None if state is None else state.contiguous()
        sequences = Sequences.of(cu_seqlens, self.rows)
        tap_columns = triton.next_power_of_2(self.taps)
        block = tile.columns // tap_columns
        self.channel_blocks = triton.cdiv(channels, block)
        self.inputs = (v, self.hidden, self.weight, bias, state, sequences.positions, sequences.owners)
        self.sizes = (self.rows, length, channels, hidden.shape[2], v.stride(1))
        self.constants = {
            "W": self.taps,
            "WP": tap_columns,
            "BT": tile.rows,
            "BD": block,
            "BR": tile.inner,
            "EVEN_R": hidden.shape[2] % tile.inner == 0,
            "SILU": silu,
            "PACKED": cu_seqlens is not None,
            "HAS_STATE": state is not None,
            "PRECISION": "ieee" if _exact(v) else "tf32",
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
