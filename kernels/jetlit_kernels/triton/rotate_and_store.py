"""Triton rotation of a token's queries and keys and its place in the cache: a program a sequence and head."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.triton.sizes import power_of_two


@triton.jit
def rotate_kernel(
    projected, cos, sin, position, keys, values, query_norm, key_norm, out, slots, stride_projected, eps,
    QUERIES: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """One head: a query to `out`, a key or a value to its slot."""
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, HALF)
    mask = column < D // 2
    source = projected + batch * stride_projected + head * D + column
    first = tl.load(source, mask=mask, other=0.0)
    second = tl.load(source + D // 2, mask=mask, other=0.0)
    slot = tl.load(position).to(tl.int64) % slots
    if head >= QUERIES + GROUPS:
        line = values + ((batch * GROUPS + head - QUERIES - GROUPS) * slots + slot) * D + column
        tl.store(line, first, mask=mask)
        tl.store(line + D // 2, second, mask=mask)
    else:
        x, y = first.to(tl.float32), second.to(tl.float32)
        is_query = head < QUERIES
        if NORM:
            scale = tl.rsqrt((tl.sum(x * x) + tl.sum(y * y)) / D + eps)
            weight = tl.where(is_query, tl.load(query_norm + column, mask=mask, other=0.0),
                              tl.load(key_norm + column, mask=mask, other=0.0))  # fmt: skip
            x *= scale * weight.to(tl.float32)
            weight = tl.where(is_query, tl.load(query_norm + D // 2 + column, mask=mask, other=0.0),
                              tl.load(key_norm + D // 2 + column, mask=mask, other=0.0))  # fmt: skip
            y *= scale * weight.to(tl.float32)
        cos_x = tl.load(cos + column, mask=mask, other=0.0).to(tl.float32)
        sin_x = tl.load(sin + column, mask=mask, other=0.0).to(tl.float32)
        cos_y = tl.load(cos + D // 2 + column, mask=mask, other=0.0).to(tl.float32)
        sin_y = tl.load(sin + D // 2 + column, mask=mask, other=0.0).to(tl.float32)
        rotated_x = (x * cos_x - y * sin_x).to(out.dtype.element_ty)
        rotated_y = (y * cos_y + x * sin_y).to(out.dtype.element_ty)
        if is_query:
            line = out + (batch * QUERIES + head) * D + column
            tl.store(line, rotated_x, mask=mask)
            tl.store(line + D // 2, rotated_y, mask=mask)
        else:
            line = keys + ((batch * GROUPS + head - QUERIES) * slots + slot) * D + column
            tl.store(line, rotated_x, mask=mask)
            tl.store(line + D // 2, rotated_y, mask=mask)


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
    """Queries [B, Hq, D]; arguments as those of `jetlit_kernels.rotate_and_store`."""
    batch, groups, slots, size = keys.shape
    heads = projected.shape[1] // size
    projected = projected if projected.stride(1) == 1 else projected.contiguous()
    out = torch.empty(batch, heads - 2 * groups, size, dtype=projected.dtype, device=projected.device)
    query_norm, key_norm = norm_weights or (None, None)
    rotate_kernel[(batch, heads)](
        projected, cos.contiguous(), sin.contiguous(), position, keys, values, query_norm, key_norm, out,
        slots, projected.stride(0), norm_eps,
        QUERIES=heads - 2 * groups, GROUPS=groups, D=size, HALF=power_of_two(size // 2),
        NORM=norm_weights is not None, num_warps=1,
    )  # fmt: skip
    return out
