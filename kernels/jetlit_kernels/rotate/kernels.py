"""Triton rotation of pairs of columns."""

import math

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv, power_of_two

ELEMENTS = 2048  # of each half, of a program


@triton.jit
def rotate_kernel(
    x, cos, sin, out, M, H, TOKENS, HALF: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr, BACK: tl.constexpr
):
    """Rotate BM rows, a row being one head of one token; `cos` and `sin` have TOKENS rows, over and over."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    column = tl.arange(0, BH)[None, :]
    mask = (row < M) & (column < HALF)
    angle = (row // H % TOKENS) * HALF + column
    c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    if BACK:
        s = -s
    place = row.to(tl.int64) * (2 * HALF) + column
    a = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x + place + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, (a * c - b * s).to(out.dtype.element_ty), mask=mask)
    tl.store(out + place + HALF, (b * c + a * s).to(out.dtype.element_ty), mask=mask)


def launch(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool) -> torch.Tensor:
    """Return x [B, T, H, K] rotated, or rotated back."""
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    out = torch.empty_like(x)
    if out.numel():
        half = x.shape[-1] // 2
        block = power_of_two(half)
        rows, height = out.numel() // x.shape[-1], max(ELEMENTS // block, 1)
        rotate_kernel[(cdiv(rows, height),)](
            x, cos, sin, out, rows, x.shape[2], cos.shape[0] * cos.shape[1], HALF=half, BM=height, BH=block,
            BACK=back, num_warps=4,
        )  # fmt: skip
    return out


@triton.jit
def angles_kernel(positions, cos, sin, M, RATE: tl.constexpr, HALF: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr):
    """Compute BM rows of cos and sin; RATE is −log(theta) / HALF; as an argument it would be a float32."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, BH)
    mask = (row < M)[:, None] & (column < HALF)[None, :]
    position = tl.load(positions + row, mask=row < M, other=0).to(tl.float64)
    angle = position[:, None] * tl.exp(column.to(tl.float64) * RATE)[None, :]
    place = row.to(tl.int64)[:, None] * HALF + column[None, :]
    tl.store(cos + place, tl.cos(angle).to(cos.dtype.element_ty), mask=mask)
    tl.store(sin + place, tl.sin(angle).to(sin.dtype.element_ty), mask=mask)


def angles(positions: torch.Tensor, size: int, theta: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin [B, T, K/2] of `jetlit_kernels.rotary_angles`."""
    half = size // 2
    cos, sin = (torch.empty(*positions.shape, half, dtype=dtype, device=positions.device) for _ in range(2))
    if cos.numel():
        block = power_of_two(half)
        height = max(256 // block, 1)
        angles_kernel[(cdiv(positions.numel(), height),)](
            positions.contiguous(), cos, sin, positions.numel(), RATE=-math.log(theta) / half, HALF=half, BM=height,
            BH=block, num_warps=4,
        )  # fmt: skip
    return cos, sin
