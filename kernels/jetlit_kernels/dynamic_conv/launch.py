"""Launch the dynamic convolution's Triton kernels.

Forward: a program makes the kernels of BT tokens and BD channels with one matrix product (columns ordered tap by tap,
so that a thread holds all taps of a channel) and uses them at once: they live in registers only.

Backward: stretch by stretch of rows, library products make the kernels and use their gradients, and one kernel between
them, bound by memory, does the rest; the stretch's scratch is all that is ever held of either. A fused product was
measured slower here: see benchmarks/results/kernel_notebook.md.

The batch and time dimensions are one dimension of M rows; a row's position in its sequence says which taps look before
the start, for batches and packed sequences alike.
"""

from dataclasses import dataclass

import torch

from jetlit_kernels.descriptors import described
from jetlit_kernels.dynamic_conv.arguments import Arguments
from jetlit_kernels.dynamic_conv.kernels import backward_kernel, forward_kernel
from jetlit_kernels.history import Sequences, constant_stride
from jetlit_kernels.sizes import cdiv, power_of_two


@dataclass(frozen=True)
class Tile:
    """Sizes of one program.

    Attributes:
        rows: tokens.
        columns: taps, rounded up to a power of two, times channels.
        inner: of the sum, per step.
        warps: warps per program.
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


def forward(a: Arguments) -> torch.Tensor:
    """Return the output [B, T, D] of the convolution."""
    v, taps = a.v, a.taps
    batch, length, channels = v.shape
    rows, rank = batch * length, a.hidden.shape[2]
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if not out.numel():
        return out
    exact = v.dtype == torch.float32
    tile = SINGLE if exact else FORWARD
    tap_columns = power_of_two(taps)
    block = tile.columns // tap_columns
    hidden_rows = described(a.hidden.to(v.dtype).reshape(rows, rank), [tile.rows, tile.inner])
    by_tap = a.weight.to(v.dtype).unflatten(0, (channels, taps)).transpose(0, 1)
    tap_weight = described(by_tap, [tap_columns, block, tile.inner])
    v, stride_v = constant_stride(v)
    sequences = Sequences.of(a.cu_seqlens, rows)
    forward_kernel[(cdiv(channels, block), cdiv(rows, tile.rows))](
        v, hidden_rows, tap_weight, a.bias.contiguous(), None if a.state is None else a.state.contiguous(),
        sequences.positions, sequences.owners, out, rows, length, channels, rank, stride_v, W=taps, WP=tap_columns,
        BT=tile.rows, BD=block, BR=tile.inner, SILU=a.silu, PACKED=a.cu_seqlens is not None,
        HAS_STATE=a.state is not None, PRECISION="ieee" if exact else "tf32", num_warps=tile.warps,
        num_stages=tile.stages,
    )  # fmt: skip
    return out


def backward(a: Arguments, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of v, hidden, weight and bias, each in its dtype; the last two are summed in float32."""
    batch, length, channels = a.v.shape
    rows, rank, outputs, taps = batch * length, a.hidden.shape[2], a.weight.shape[0], a.taps
    v, stride_v = constant_stride(a.v)
    d_v = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    d_hidden = torch.empty(rows, rank, dtype=v.dtype, device=v.device)
    d_weight = torch.zeros(outputs, rank, dtype=torch.float32, device=v.device)
    segments = cdiv(rows, SEGMENT)
    d_bias = torch.empty(segments, outputs, dtype=torch.float32, device=v.device)

    hidden_rows = a.hidden.to(v.dtype).reshape(rows, rank)
    tap_weight, tap_bias = _by_tap(a.weight.to(v.dtype), taps), _by_tap(a.bias, taps)
    kernels = torch.empty(min(STRETCH + taps - 1, rows), outputs, dtype=v.dtype, device=v.device)
    d_kernels = torch.empty(min(STRETCH, rows), outputs, dtype=v.dtype, device=v.device)
    sequences = Sequences.of(a.cu_seqlens, rows)
    d_out = d_out.contiguous()
    state = None if a.state is None else a.state.contiguous()
    for first in range(0, rows, STRETCH):
        last = min(first + STRETCH, rows)
        reach = min(last + taps - 1, rows)
        torch.mm(hidden_rows[first:reach], tap_weight.T, out=kernels[: reach - first])
        backward_kernel[(cdiv(channels, BLOCK), cdiv(last - first, SEGMENT))](
            d_out, kernels, tap_bias, v, state, sequences.positions, sequences.owners, d_v, d_kernels,
            d_bias[first // SEGMENT :], first, last, rows, length, channels, stride_v, SEGMENT, W=taps, BD=BLOCK,
            SILU=a.silu, PACKED=a.cu_seqlens is not None, HAS_STATE=state is not None,
            STAGES=STAGES, num_warps=WARPS,
        )  # fmt: skip
        torch.mm(d_kernels[: last - first], tap_weight, out=d_hidden[first:last])
        _add_product(d_weight, d_kernels[: last - first].T, hidden_rows[first:last])
    return (
        d_v,
        d_hidden.view(a.hidden.shape).to(a.hidden.dtype),
        _by_channel(d_weight, taps, a.weight.dtype),
        _by_channel(d_bias.sum(0), taps, a.bias.dtype),
    )


def _by_tap(x: torch.Tensor, taps: int) -> torch.Tensor:
    """Reorder [D·W, ...] to [W·D, ...]."""
    return x.unflatten(0, (-1, taps)).transpose(0, 1).flatten(0, 1).contiguous()


def _by_channel(x: torch.Tensor, taps: int, dtype: torch.dtype) -> torch.Tensor:
    """Reorder [W·D, ...] to [D·W, ...], cast by the copy that reorders."""
    ordered = x.unflatten(0, (taps, -1)).transpose(0, 1)
    return ordered.to(dtype, copy=True, memory_format=torch.contiguous_format).flatten(0, 1)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a @ b to `total`, summed in float32 whatever the dtype of the factors."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
