"""Triton split-KV attention of one token: partial softmax over pieces of the cache, then their combination."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from jetlit_kernels.overlap import overlapped, wait_for_inputs
from jetlit_kernels.sizes import power_of_two


class Config(NamedTuple):
    """Cached positions loaded at a time, warps, steps loaded ahead; benchmarks/decode_memory.py times others."""

    BS: int = 64
    num_warps: int = 4
    num_stages: int = 3


BLOCK = 64  # positions of which a split has at least four times as many
# tl.dot wants at least 16 rows; a group of query heads is padded to that.
ROWS = 16
PROGRAMS = 1024  # enough to keep every multiprocessor of a large GPU reading
LONGEST_SPLIT_COUNT = 64


@triton.jit
def split_kernel(
    query, key, value, seen, partial, lse, slots, scale,
    stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
    SPLITS: tl.constexpr, PRECISION: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Compute one split of one key/value head: its softmax-weighted values and the logarithm of its weights' sum."""
    pair, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = pair // HKV, pair % HKV
    row, column = tl.arange(0, BM), tl.arange(0, BD)
    valid = (row < GROUP)[:, None] & (column < D)[None, :]
    wait_for_inputs(OVERLAP)
    q = tl.load(query + (pair * GROUP + row)[:, None] * D + column[None, :], mask=valid, other=0.0)
    key += batch * stride_kb + head * stride_kh
    value += batch * stride_vb + head * stride_vh
    count = tl.minimum(tl.load(seen).to(tl.int32), slots)
    length = tl.cdiv(tl.cdiv(count, SPLITS), BS) * BS
    start = split * length
    end = tl.minimum(start + length, count)
    highest = tl.full([BM], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BM], dtype=tl.float32)
    sums = tl.zeros([BM, BD], dtype=tl.float32)
    for position in range(start, end, BS):
        slot = position + tl.arange(0, BS)
        here = (slot < end)[:, None] & (column < D)[None, :]
        k = tl.load(key + slot.to(tl.int64)[:, None] * stride_ks + column[None, :], mask=here, other=0.0)
        v = tl.load(value + slot.to(tl.int64)[:, None] * stride_vs + column[None, :], mask=here, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where((slot < end)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        highest = higher
    place = (pair * SPLITS + split) * GROUP + row
    # An empty split weighs nothing: exp(-inf) is 0 in the combination.
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    tl.store(partial + place[:, None] * D + column[None, :], sums / safe[:, None], mask=valid)
    tl.store(lse + place, tl.where(empty, float("-inf"), highest + tl.log(safe)), mask=row < GROUP)


@triton.jit
def combine_kernel(
    partial, lse, out,
    GROUP: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SPLITS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Combine one query head: the splits' outputs, each weighted by its share of the softmax."""
    pair, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    split, column = tl.arange(0, BN), tl.arange(0, BD)
    place = (pair * SPLITS + split) * GROUP + row
    wait_for_inputs(OVERLAP)
    logs = tl.load(lse + place, mask=split < SPLITS, other=float("-inf"))
    weights = tl.exp(logs - tl.max(logs, axis=0))
    weights = weights / tl.sum(weights, axis=0)
    mask = (split < SPLITS)[:, None] & (column < D)[None, :]
    parts = tl.load(partial + place[:, None] * D + column[None, :], mask=mask, other=0.0)
    result = tl.sum(parts * weights[:, None], axis=0)
    tl.store(out + (pair * GROUP + row) * D + column, result.to(out.dtype.element_ty), mask=column < D)


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
    config: Config | None = None,
) -> torch.Tensor:
    """Return the output [B, Hq, D]; arguments as those of `jetlit_kernels.decode_attention`."""
    batch, heads, size = query.shape
    groups, slots = key.shape[1], key.shape[2]
    pairs, group = batch * groups, heads // groups
    key, value = _rows_contiguous(key), _rows_contiguous(value)
    splits = split_count(pairs, slots)
    partial = torch.empty(pairs, splits, group, size, dtype=torch.float32, device=query.device)
    lse = torch.empty(pairs, splits, group, dtype=torch.float32, device=query.device)
    out = torch.empty(batch, heads, size, dtype=query.dtype, device=query.device)
    width, overlap = power_of_two(max(size, 16)), overlapped(query)
    split_kernel[(pairs, splits)](
        query.contiguous(), key, value, seen, partial, lse, slots, scale,
        *key.stride()[:3], *value.stride()[:3],
        HKV=groups, GROUP=group, D=size, BM=max(ROWS, power_of_two(group)), BD=width,
        SPLITS=splits, PRECISION="ieee", **(config or Config())._asdict(), **overlap,
    )  # fmt: skip
    combine_kernel[(pairs, group)](
        partial, lse, out,
        GROUP=group, D=size, BN=power_of_two(splits), BD=width, SPLITS=splits, num_warps=4, **overlap,
    )  # fmt: skip
    return out


def split_count(pairs: int, slots: int) -> int:
    """Return how many pieces each cache is split into: enough to fill the device, none shorter than a few blocks.

    It depends on the allocated slots, not on how many are filled, so that a captured graph keeps its grid.
    """
    wanted = triton.cdiv(PROGRAMS, pairs)
    return max(1, min(wanted, triton.cdiv(slots, 4 * BLOCK), LONGEST_SPLIT_COUNT))


def _rows_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()
