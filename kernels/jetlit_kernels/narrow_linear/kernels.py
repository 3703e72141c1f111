"""Triton product of a few rows: each program streams some rows of the weights past them once."""

from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl

from jetlit_kernels.overlap import AHEAD, LINE, bring_nearer, overlapped, wait_for_inputs
from jetlit_kernels.sizes import cdiv, power_of_two

ROWS = 16  # of a tensor core's tile; fewer are padded, but for a single one


@dataclass(frozen=True)
class Config:
    """Outputs of a program, inputs of a step, and how many steps are loaded ahead."""

    BN: int
    BK: int
    num_warps: int
    num_stages: int


# A multiprocessor must have about 40 KiB in flight to keep the memory busy (benchmarks/decode_products.py times other
# choices). Few outputs are spread over as many programs as possible, each loading far ahead; of many, all programs fit
# the device at once. The inputs of a step must give each thread 4 bytes of the norm's weight, or Triton does not load
# that ahead.
FEW, MANY, FLOAT32 = Config(16, 256, 4, 4), Config(32, 128, 2, 3), Config(32, 64, 4, 3)
MANY_OUTPUTS = 8192
# A single row fills a sixteenth of a tile, and its norm and activation would be computed for all of it. Its products
# are summed where they are loaded: 16 bytes a thread of each of a few rows of the weights, whole rows up to so many
# warps, with no exchange between threads before the end. Longer rows take more steps, which are unrolled so that their
# loads are all under way at once, for half as many rows.
WARPS, LONG, STEPS = 8, 4096, 8


@triton.jit
def _add_product(sums, a, w, BM: tl.constexpr):
    """Add a · wᵀ; of a single row the terms, which are summed over the inputs of a step at the end."""
    if BM == 1:
        return sums + a.to(tl.float32) * w.to(tl.float32)
    else:
        return tl.dot(a.to(w.dtype), tl.trans(w), sums, input_precision="ieee")


@triton.jit
def narrow_kernel(
    x, weight, bias, norm_weight, out, M, N, stride_x, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, NORM: tl.constexpr,
    SILU: tl.constexpr, SWIGLU: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, NEARER: tl.constexpr,
    OVERLAP: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Compute BN outputs of every row. The norm's factor is one number a row: it is applied to the sums at the end."""
    row = tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    if NEARER:
        size: tl.constexpr = K * (weight.dtype.element_ty.primitive_bitwidth // 8)
        first = tl.program_id(0) * BN
        bring_nearer(weight + first.to(tl.int64) * K, tl.minimum(BN, N - first), size, NEARER)
        if SWIGLU:
            bring_nearer(weight + (N + first).to(tl.int64) * K, tl.minimum(BN, N - first), size, NEARER)
    wait_for_inputs(OVERLAP)
    lines = weight + column.to(tl.int64)[:, None] * K + inner[None, :]
    sums = tl.zeros([BN, BK] if BM == 1 else [BM, BN], dtype=tl.float32)
    others = tl.zeros([BN, BK] if BM == 1 else [BM, BN], dtype=tl.float32)
    squares = tl.zeros([BM, BK], dtype=tl.float32)  # summed once at the end: in every step it would cost shuffles
    for start in tl.range(0, K, BK, loop_unroll_factor=UNROLL):
        if EVEN:
            here = (column < N)[:, None]
            read = (row < M)[:, None]
        else:
            here = (column < N)[:, None] & (start + inner < K)[None, :]
            read = (row < M)[:, None] & (start + inner < K)[None, :]
        a = tl.load(x + row[:, None] * stride_x + start + inner[None, :], mask=read, other=0.0)
        w = tl.load(lines + start, mask=here, other=0.0)
        if NORM:
            wide = a.to(tl.float32)
            squares += wide * wide
            factor = tl.load(norm_weight + start + inner, mask=start + inner < K, other=0.0).to(tl.float32)
            a = wide * factor[None, :]
        if SILU:
            wide = a.to(tl.float32)
            a = wide / (1.0 + tl.exp(-wide))
        sums = _add_product(sums, a, w, BM)
        if SWIGLU:
            others = _add_product(others, a, tl.load(lines + N * K + start, mask=here, other=0.0), BM)
    if BM == 1:
        sums = tl.sum(sums, axis=1)[None, :]
        others = tl.sum(others, axis=1)[None, :]
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=1) / K + eps)[:, None]
        sums *= scale
        others *= scale
    if BIAS:
        sums += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
        if SWIGLU:
            others += tl.load(bias + N + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
    if SWIGLU:
        sums = sums / (1.0 + tl.exp(-sums)) * others
    place = row[:, None] * N + column[None, :]
    mask = (row < M)[:, None] & (column < N)[None, :]
    if ADD:
        sums += tl.load(out + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=mask)


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_eps: float,
    silu_input: bool,
    swiglu: bool,
    add_to: torch.Tensor | None,
    config: Config | None = None,
) -> torch.Tensor:
    """Return the output [B, N or N / 2]; arguments as those of `jetlit_kernels.narrow_linear`."""
    (rows, width), outputs = x.shape, weight.shape[0] // (2 if swiglu else 1)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device) if add_to is None else add_to
    if not rows:
        return out
    x, weight = x if x.stride(1) == 1 else x.contiguous(), weight.contiguous()
    settings = asdict(config or choose(x.dtype, rows, width, outputs))
    settings["BK"] = min(settings["BK"], max(16, power_of_two(width)))
    narrow_kernel[(cdiv(outputs, settings["BN"]),)](
        x, weight, bias, norm_weight, out,
        rows, outputs, x.stride(0), norm_eps,
        K=width, BM=1 if rows == 1 else ROWS, EVEN=width % settings["BK"] == 0, NORM=norm_weight is not None,
        SILU=silu_input, SWIGLU=swiglu, BIAS=bias is not None, ADD=add_to is not None,
        UNROLL=min(cdiv(width, settings["BK"]), STEPS) if rows == 1 else 1, **settings, **_ahead(weight),
    )  # fmt: skip
    return out


def _ahead(weight: torch.Tensor) -> dict[str, int | bool]:
    """Return how the launch overlaps the one before, and how many bytes of each weight row it requests early."""
    settings = overlapped(weight)
    row = weight.shape[1] * weight.element_size()
    share = min(row, AHEAD // weight.shape[0]) // 16 * 16
    aligned = row % 16 == 0 and weight.data_ptr() % 16 == 0
    return settings | {"NEARER": share if settings["OVERLAP"] and aligned and share >= LINE else 0}


def choose(dtype: torch.dtype, rows: int, width: int, outputs: int) -> Config:
    """Return the configuration for a product with so many rows, inputs and outputs."""
    if rows == 1:
        inputs = 32 * (16 // dtype.itemsize)
        warps = max(1, min(power_of_two(width) // inputs, WARPS))
        return Config(4 if width <= LONG else 2, warps * inputs, warps, 1)
    if dtype == torch.float32:
        return FLOAT32
    return MANY if outputs >= MANY_OUTPUTS else FEW
