"""Tiles of the recurrences' kernels: their sizes, how a kernel is compiled for them, and how tokens are loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import power_of_two

CHUNK = {torch.bfloat16: 64, torch.float32: 32}
PRECISION = {torch.bfloat16: "tf32", torch.float32: "tf32x3"}  # three tf32 products: as good as float32


@dataclass(frozen=True)
class Config:
    """How a kernel is cut and compiled.

    Attributes:
        columns: columns of V per program or step.
        warps: warps per program.
        stages: stages of the loads' pipeline.
        registers: limit per thread, so that more programs share a multiprocessor; None for no limit.
    """

    columns: int
    warps: int
    stages: int
    registers: int | None = None

    def options(self) -> dict[str, int | None]:
        """Return the compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


def key_block(K: int) -> int:
    """Return the width of the tiles that hold K columns.

    Never 32: on Hopper, Triton 3.6 gave wrong results for 16-bit tiles of that width (benchmarks/studies/kernels).
    """
    return max(64, power_of_two(K))


@triton.jit
def load_tokens(x, begin, end, head, H, WIDTH: tl.constexpr, offset, C: tl.constexpr, BLOCK: tl.constexpr):
    """Load [C, BLOCK] of x [tokens, H, WIDTH] from token `begin` and column `offset`, zeros outside."""
    token = begin + tl.arange(0, C)
    column = offset + tl.arange(0, BLOCK)
    pointers = x + (token[:, None] * H + head) * WIDTH + column[None, :]
    return tl.load(pointers, mask=(token < end)[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def store_tokens(x, value, begin, end, head, H, WIDTH: tl.constexpr, offset, C: tl.constexpr, BLOCK: tl.constexpr):
    """Store [C, BLOCK] into x [tokens, H, WIDTH], leaving out what lies outside."""
    token = begin + tl.arange(0, C)
    column = offset + tl.arange(0, BLOCK)
    pointers = x + (token[:, None] * H + head) * WIDTH + column[None, :]
    tl.store(pointers, value.to(x.dtype.element_ty), mask=(token < end)[:, None] & (column < WIDTH)[None, :])
