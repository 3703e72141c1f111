"""Triton gated RMSNorm: one pass over the rows in each direction."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.activations import silu, silu_slope
from jetlit_kernels.gated_norm.arguments import Arguments
from jetlit_kernels.operators import contiguous
from jetlit_kernels.sizes import cdiv, power_of_two

# The weight's gradient is summed per program, then over programs: a fixed number keeps the order of the sums fixed.
PROGRAMS = 1056
ELEMENTS = 1024


@triton.jit
def _rows(
    o, gate, skip, skip_weight, rows, column, mask, V, H, HAS_GATE: tl.constexpr, HAS_SKIP: tl.constexpr
):  # fmt: skip
    """Return addresses [BM, BV], o plus the weighted skip, the gate, the skip and its weight; 0 for what is missing."""
    address = rows.to(tl.int64)[:, None] * V + column[None, :]
    x = tl.load(o + address, mask=mask, other=0.0).to(tl.float32)
    z, s, d = x, x, x
    if HAS_SKIP:
        s = tl.load(skip + address, mask=mask, other=0.0).to(tl.float32)
        d = tl.broadcast_to(tl.load(skip_weight + rows % H).to(tl.float32)[:, None], s.shape)
        x += d * s
    if HAS_GATE:
        z = tl.load(gate + address, mask=mask, other=0.0).to(tl.float32)
    return address, x, z, s, d


@triton.jit
def forward_kernel(
    o, gate, weight, skip, skip_weight, out, M, V, H, eps, BM: tl.constexpr, BV: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_SKIP: tl.constexpr, NORM_FIRST: tl.constexpr,
):  # fmt: skip
    """Compute BM rows of the output."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, BV)
    mask = (rows < M)[:, None] & (column < V)[None, :]
    address, x, z, _, _ = _rows(o, gate, skip, skip_weight, rows, column, mask, V, H, HAS_GATE, HAS_SKIP)
    w = tl.load(weight + column, mask=column < V, other=0.0).to(tl.float32)
    if HAS_GATE and not NORM_FIRST:
        x *= silu(z)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / V + eps)
    y = x * scale[:, None] * w[None, :]
    if HAS_GATE and NORM_FIRST:
        y *= silu(z)
    tl.store(out + address, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    d_out, o, gate, weight, skip, skip_weight, d_o, d_gate, d_weight, d_skip, d_skip_weight, M, V, H, eps,
    blocks_each, BM: tl.constexpr, BV: tl.constexpr, HAS_GATE: tl.constexpr, HAS_SKIP: tl.constexpr,
    NORM_FIRST: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of `blocks_each` blocks of BM rows, and their part of the weight's gradient.

    `d_skip_weight` is [M]: each row's part.
    """
    column = tl.arange(0, BV)
    w = tl.load(weight + column, mask=column < V, other=0.0).to(tl.float32)
    d_w = tl.zeros([BM, BV], dtype=tl.float32)
    for block in range(blocks_each):
        rows = (tl.program_id(0) * blocks_each + block) * BM + tl.arange(0, BM)
        mask = (rows < M)[:, None] & (column < V)[None, :]
        address, x, z, s, d = _rows(o, gate, skip, skip_weight, rows, column, mask, V, H, HAS_GATE, HAS_SKIP)
        d_y = tl.load(d_out + address, mask=mask, other=0.0).to(tl.float32)
        normed = x
        if HAS_GATE and not NORM_FIRST:
            normed = x * silu(z)
        scale = tl.rsqrt(tl.sum(normed * normed, axis=1) / V + eps)[:, None]
        unit = normed * scale
        d_n = d_y
        if HAS_GATE and NORM_FIRST:
            d_z = d_y * unit * w[None, :] * silu_slope(z)
            tl.store(d_gate + address, d_z.to(d_gate.dtype.element_ty), mask=mask)
            d_n = d_y * silu(z)
        d_w += d_n * unit
        d_n *= w[None, :]
        d_x = scale * (d_n - unit * (tl.sum(d_n * unit, axis=1) / V)[:, None])
        if HAS_GATE and not NORM_FIRST:
            d_z = d_x * x * silu_slope(z)
            tl.store(d_gate + address, d_z.to(d_gate.dtype.element_ty), mask=mask)
            d_x *= silu(z)
        tl.store(d_o + address, d_x.to(d_o.dtype.element_ty), mask=mask)
        if HAS_SKIP:
            tl.store(d_skip + address, (d * d_x).to(d_skip.dtype.element_ty), mask=mask)
            tl.store(d_skip_weight + rows, tl.sum(d_x * s, axis=1), mask=rows < M)
    tl.store(d_weight + tl.program_id(0) * V + column, tl.sum(d_w, axis=0), mask=column < V)


def forward(a: Arguments) -> torch.Tensor:
    """Return the output [..., V]."""
    o, gate, weight, skip, skip_weight = contiguous(*a[:5])
    out = torch.empty_like(o)
    rows, width, block, options = _options(a)
    if rows:
        forward_kernel[(cdiv(rows, block),)](
            o, gate, weight, skip, skip_weight, out, rows, width, _heads(a), a.eps, **options, num_warps=4
        )
    return out


def backward(a: Arguments, d_out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the gradients of o, gate, weight, skip and its weight, each in its dtype; empty for what is missing."""
    d_out, o, gate, weight, skip, skip_weight = contiguous(d_out, *a[:5])
    rows, width, block, options = _options(a)
    blocks = cdiv(rows, block)
    each = max(cdiv(blocks, PROGRAMS), 1)
    programs = cdiv(blocks, each)
    d_o = torch.empty_like(o)
    d_gate, d_skip = (o.new_empty(0) if t is None else torch.empty_like(t) for t in (gate, skip))
    d_weight = torch.empty(programs, width, dtype=torch.float32, device=o.device)
    d_skip_weight = torch.empty(rows if a.skip is not None else 0, dtype=torch.float32, device=o.device)
    if rows:
        backward_kernel[(programs,)](
            d_out, o, gate, weight, skip, skip_weight, d_o, d_gate, d_weight, d_skip, d_skip_weight, rows, width,
            _heads(a), a.eps, each, **options, num_warps=4,
        )  # fmt: skip
    if a.skip_weight is not None:
        d_skip_weight = d_skip_weight.view(-1, _heads(a)).sum(0).to(a.skip_weight.dtype)
    return d_o, d_gate, d_weight.sum(0).to(weight.dtype), d_skip, d_skip_weight


def _heads(a: Arguments) -> int:
    return 1 if a.skip_weight is None else len(a.skip_weight)


def _options(a: Arguments) -> tuple[int, int, int, dict[str, int | bool]]:
    """Return the number of rows, V, the rows of a program, and the kernels' constants."""
    width = a.o.shape[-1]
    padded = power_of_two(width)
    block = max(ELEMENTS // padded, 1)
    flags = {"HAS_GATE": a.gate is not None, "HAS_SKIP": a.skip is not None, "NORM_FIRST": a.norm_before_gate}
    return a.o.numel() // max(width, 1), width, block, {"BM": block, "BV": padded, **flags}
