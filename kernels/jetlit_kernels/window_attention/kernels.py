"""Triton attention over a sliding window: online softmax over the keys that a tile of queries sees."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv, power_of_two

LOG2_E = 1.4426950408889634
NARROW = {"BM": 128, "BS": 64, "num_warps": 8, "num_stages": 3}  # 16-bit types
FLOAT32 = {"BM": 32, "BS": 32, "num_warps": 4, "num_stages": 2}


@triton.jit
def window_kernel(
    query, key, value, out, T, S, window, scale,
    stride_qb, stride_qh, stride_qt, stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs,
    HQ: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Treat BM queries of one head."""
    batch, head = (tl.program_id(0) // HQ).to(tl.int64), tl.program_id(0) % HQ
    token, column = tl.program_id(1) * BM + tl.arange(0, BM), tl.arange(0, BD)
    wide = (column < D)[None, :]
    valid = (token < T)[:, None] & wide
    q = tl.load(
        query + batch * stride_qb + head * stride_qh + token.to(tl.int64)[:, None] * stride_qt + column[None, :],
        mask=valid,
        other=0.0,
    )
    key += batch * stride_kb + (head // GROUP) * stride_kh
    value += batch * stride_vb + (head // GROUP) * stride_vh
    position = token + (S - T)
    first = tl.maximum(tl.program_id(1) * BM + S - T - window + 1, 0) // BS * BS
    end = tl.minimum(tl.program_id(1) * BM + BM + S - T, S)
    highest = tl.full([BM], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BM], dtype=tl.float32)
    sums = tl.zeros([BM, BD], dtype=tl.float32)
    for start in range(first, end, BS):
        slot = start + tl.arange(0, BS)
        here = (slot < S)[:, None] & wide
        k = tl.load(key + slot.to(tl.int64)[:, None] * stride_ks + column[None, :], mask=here, other=0.0)
        v = tl.load(value + slot.to(tl.int64)[:, None] * stride_vs + column[None, :], mask=here, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = (slot[None, :] <= position[:, None]) & (slot[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        # A query may see nothing of a block; what it has summed so far is nothing too, and stays so.
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - reference[:, None])
        shrink = tl.exp2(highest - reference)
        total = total * shrink + tl.sum(weights, axis=1)
        sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
        highest = higher
    place = out + (tl.program_id(0).to(tl.int64) * T + token)[:, None] * D + column[None, :]
    tl.store(place, (sums / tl.where(total == 0.0, 1.0, total)[:, None]).to(out.dtype.element_ty), mask=valid)


def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float) -> torch.Tensor:
    """Return the output [B, Hq, T, D]; arguments as those of `jetlit_kernels.window_attention`."""
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    batch, heads, length, size = query.shape
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    settings = FLOAT32 if query.dtype == torch.float32 else NARROW
    if out.numel():
        # A grid's second axis ends at 65,535, which thousands of short prompts have more heads than.
        window_kernel[(batch * heads, cdiv(length, settings["BM"]))](
            query, key, value, out, length, key.shape[2], window, scale * LOG2_E,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            HQ=heads, GROUP=heads // key.shape[1], D=size, BD=max(16, power_of_two(size)), **settings,
        )  # fmt: skip
    return out
