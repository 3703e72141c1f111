"""Triton SiLU and its gradient, from rows any distance apart to contiguous ones.

Widths and strides are constants of the kernels. Of an argument Triton only knows whether it is a multiple of 16,
but rows of 408 numbers, a multiple of 8, also begin on 16 bytes and can be loaded that way.
"""

import torch
import triton
import triton.language as tl

from jetlit_kernels import activations
from jetlit_kernels.sizes import cdiv, power_of_two

COLUMNS, ELEMENTS = 128, 2048  # of a program, at most


@triton.jit
def silu_kernel(x, out, M, N: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Compute BM rows and BN columns of the output."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    mask = (row < M) & (column < N)
    z = tl.load(x + row * STRIDE + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * N + column, activations.silu(z).to(out.dtype.element_ty), mask=mask)


@triton.jit
def silu_backward_kernel(
    d_out, x, d_x, M, N: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Compute BM rows and BN columns of the gradient."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    mask = (row < M) & (column < N)
    z = tl.load(x + row * STRIDE + column, mask=mask, other=0.0).to(tl.float32)
    d_y = tl.load(d_out + row * N + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(d_x + row * N + column, (d_y * activations.silu_slope(z)).to(d_x.dtype.element_ty), mask=mask)


def forward(x: torch.Tensor) -> torch.Tensor:
    """Return the output [..., N] of `jetlit_kernels.silu`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(silu_kernel, x, out)
    return out


def backward(d_out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of x, [..., N] contiguous, in its dtype."""
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(silu_backward_kernel, d_out.contiguous(), x, d_x)
    return d_x


def _launch(kernel: triton.JITFunction, *tensors: torch.Tensor) -> None:
    """Launch a kernel on tensors of one shape, of which only the last but one may have rows far apart."""
    *others, x, out = tensors
    if not out.numel():
        return
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    columns = min(COLUMNS, power_of_two(width))
    height = ELEMENTS // columns
    kernel[(cdiv(rows.shape[0], height), cdiv(width, columns))](
        *others, rows, out, rows.shape[0], N=width, STRIDE=rows.stride(0), BM=height, BN=columns, num_warps=4
    )
