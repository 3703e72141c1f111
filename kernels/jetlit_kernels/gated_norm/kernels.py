"""Triton gated RMSNorm: one pass over the rows in each direction."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv, power_of_two

# The weight's gradient is summed per program, then over programs: a fixed number keeps the order of the sums fixed.
PROGRAMS = 1056
ELEMENTS = 1024


@triton.jit
def forward_kernel(o, gate, weight, out, M, V, eps, BM: tl.constexpr, BV: tl.constexpr):
    """Compute BM rows of the output."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, BV)
    mask = (rows < M)[:, None] & (column < V)[None, :]
    address = rows.to(tl.int64)[:, None] * V + column[None, :]
    x = tl.load(o + address, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(gate + address, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=column < V, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / V + eps)
    y = x * scale[:, None] * w[None, :] * z / (1.0 + tl.exp(-z))
    tl.store(out + address, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    d_out, o, gate, weight, d_o, d_gate, d_weight, M, V, eps, blocks_each, BM: tl.constexpr, BV: tl.constexpr
):
    """Compute the gradients of `blocks_each` blocks of BM rows, and their part of the weight's gradient."""
    column = tl.arange(0, BV)
    w = tl.load(weight + column, mask=column < V, other=0.0).to(tl.float32)
    d_w = tl.zeros([BM, BV], dtype=tl.float32)
    for block in range(blocks_each):
        rows = (tl.program_id(0) * blocks_each + block) * BM + tl.arange(0, BM)
        mask = (rows < M)[:, None] & (column < V)[None, :]
        address = rows.to(tl.int64)[:, None] * V + column[None, :]
        d_y = tl.load(d_out + address, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(o + address, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(gate + address, mask=mask, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / V + eps)[:, None]
        unit = x * scale
        sigmoid = 1.0 / (1.0 + tl.exp(-z))
        d_z = d_y * unit * w[None, :] * sigmoid * (1.0 + z * (1.0 - sigmoid))
        tl.store(d_gate + address, d_z.to(d_gate.dtype.element_ty), mask=mask)
        d_n = d_y * z * sigmoid
        d_w += d_n * unit
        d_n *= w[None, :]
        d_x = scale * (d_n - unit * (tl.sum(d_n * unit, axis=1) / V)[:, None])
        tl.store(d_o + address, d_x.to(d_o.dtype.element_ty), mask=mask)
    tl.store(d_weight + tl.program_id(0) * V + column, tl.sum(d_w, axis=0), mask=column < V)


def forward(o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the output [..., V]; arguments as those of `jetlit_kernels.gated_rms_norm`."""
    o, gate = o.contiguous(), gate.contiguous()
    out = torch.empty_like(o)
    rows, width, block, sizes = _sizes(o)
    if rows:
        forward_kernel[(cdiv(rows, block),)](o, gate, weight, out, rows, width, eps, **sizes, num_warps=4)
    return out


def backward(
    d_out: torch.Tensor, o: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of o, gate and weight, each in its dtype."""
    d_out, o, gate = d_out.contiguous(), o.contiguous(), gate.contiguous()
    d_o, d_gate = torch.empty_like(o), torch.empty_like(gate)
    rows, width, block, sizes = _sizes(o)
    blocks = cdiv(rows, block)
    each = max(cdiv(blocks, PROGRAMS), 1)
    programs = cdiv(blocks, each)
    d_weight = torch.empty(programs, width, dtype=torch.float32, device=o.device)
    if rows:
        backward_kernel[(programs,)](
            d_out, o, gate, weight, d_o, d_gate, d_weight, rows, width, eps, each, **sizes, num_warps=4
        )  # fmt: skip
    return d_o, d_gate, d_weight.sum(0).to(weight.dtype)


def _sizes(o: torch.Tensor) -> tuple[int, int, int, dict[str, int]]:
    width = o.shape[-1]
    padded = power_of_two(width)
    block = max(ELEMENTS // padded, 1)
    return o.numel() // max(width, 1), width, block, {"BM": block, "BV": padded}
