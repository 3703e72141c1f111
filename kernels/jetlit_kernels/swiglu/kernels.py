"""Triton SiLU(gate) · up: one program per piece of a row."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv, power_of_two

BLOCK = 2048


@triton.jit
def silu_mul_kernel(gate, up, out, N, stride_gate, stride_up, BN: tl.constexpr):
    """Compute BN columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    mask = column < N
    z = tl.load(gate + row * stride_gate + column, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(up + row * stride_up + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * N + column, (z / (1.0 + tl.exp(-z)) * y).to(out.dtype.element_ty), mask=mask)


def forward(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return the output [..., N]; arguments as those of `jetlit_kernels.silu_mul`."""
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    width = gate.shape[-1]
    gate, up = _rows(gate), _rows(up)
    if out.numel():
        block = min(BLOCK, power_of_two(width))
        silu_mul_kernel[(gate.shape[0], cdiv(width, block))](
            gate, up, out, width, gate.stride(0), up.stride(0), BN=block, num_warps=4
        )
    return out


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as [rows, N] with contiguous rows; a view where there is one."""
    rows = x.flatten(0, -2) if x.ndim > 1 else x[None]
    return rows if rows.stride(-1) == 1 else rows.contiguous()
