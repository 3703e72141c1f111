"""Triton rotation of queries and keys, and the place of keys and values in the cache."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.overlap import overlapped, wait_for_inputs
from jetlit_kernels.sizes import cdiv, power_of_two

# Heads of a program: one where there are few tokens, so that they spread over the device.
FEW_TOKENS, HEADS = 64, 8


@triton.jit
def rotate_kernel(
    projected, cos, sin, position, keys, values, query_norm, key_norm, out, T, slots, stride_batch, stride_token, eps,
    QUERIES: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BH: tl.constexpr,
    NORM: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Treat BH heads of one token: queries go to `out`, keys and values to their slot."""
    wait_for_inputs(OVERLAP)
    batch, token = (tl.program_id(0) // T).to(tl.int64), tl.program_id(0) % T
    head, column = tl.program_id(1) * BH + tl.arange(0, BH), tl.arange(0, HALF)
    is_query = (head < QUERIES)[:, None]
    is_key = ((head >= QUERIES) & (head < QUERIES + GROUPS))[:, None]
    is_value = ((head >= QUERIES + GROUPS) & (head < QUERIES + 2 * GROUPS))[:, None]
    inside = (column < D // 2)[None, :]
    mask = inside & (head < QUERIES + 2 * GROUPS)[:, None]
    source = projected + batch * stride_batch + token.to(tl.int64) * stride_token
    source += head[:, None] * D + column[None, :]
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + D // 2, mask=mask, other=0.0).to(tl.float32)
    x, y = first, second
    if NORM:
        scale = tl.rsqrt((tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)) / D + eps)[:, None]
        weights = tl.where(is_query, query_norm, key_norm) + column[None, :]
        x *= scale * tl.load(weights, mask=mask, other=0.0).to(tl.float32)
        y *= scale * tl.load(weights + D // 2, mask=mask, other=0.0).to(tl.float32)
    angle = token * D + column[None, :]
    cos_x = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    sin_x = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    cos_y = tl.load(cos + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
    sin_y = tl.load(sin + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
    rotated_x = (x * cos_x - y * sin_x).to(out.dtype.element_ty)
    rotated_y = (y * cos_y + x * sin_y).to(out.dtype.element_ty)
    line = out + ((batch * T + token) * QUERIES + head[:, None]) * D + column[None, :]
    tl.store(line, rotated_x, mask=inside & is_query)
    tl.store(line + D // 2, rotated_y, mask=inside & is_query)
    slot = (tl.load(position).to(tl.int64) + token) % slots
    line = ((batch * GROUPS + head[:, None] - QUERIES) * slots + slot) * D + column[None, :]
    tl.store(keys + line, rotated_x, mask=inside & is_key)
    tl.store(keys + line + D // 2, rotated_y, mask=inside & is_key)
    line -= GROUPS * slots * D
    tl.store(values + line, first.to(values.dtype.element_ty), mask=inside & is_value)
    tl.store(values + line + D // 2, second.to(values.dtype.element_ty), mask=inside & is_value)


def forward(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    norm_weights: tuple[torch.Tensor, torch.Tensor] | None,
    norm_eps: float,
) -> torch.Tensor:
    """Return the queries [B, Hq, T, D]; arguments as those of `jetlit_kernels.rotate_and_store`."""
    batch, groups, slots, size = keys.shape
    length, heads = projected.shape[1], projected.shape[2] // size
    projected = projected if projected.stride(2) == 1 else projected.contiguous()
    out = torch.empty(batch, length, heads - 2 * groups, size, dtype=projected.dtype, device=projected.device)
    query_norm, key_norm = norm_weights or (None, None)
    few = batch * length <= FEW_TOKENS
    block = 1 if few else HEADS
    if out.numel():
        rotate_kernel[(batch * length, cdiv(heads, block))](
            projected, cos.contiguous(), sin.contiguous(), position, keys, values, query_norm, key_norm, out,
            length, slots, projected.stride(0), projected.stride(1), norm_eps,
            QUERIES=heads - 2 * groups, GROUPS=groups, D=size, HALF=power_of_two(size // 2), BH=block,
            NORM=norm_weights is not None, num_warps=1 if few else 4, **overlapped(keys),
        )  # fmt: skip
    return out.transpose(1, 2)
