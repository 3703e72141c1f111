"""Triton gates of a JetBlock: both in one pass."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.activations import sigmoid
from jetlit_kernels.sizes import cdiv, power_of_two

BLOCK = 512
TOKENS = 64  # of a program of the backward pass


@triton.jit
def gates_kernel(
    beta_logits, a, A_log, dt_bias, g, beta, COUNT, stride_beta, stride_a, H: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute BLOCK of the COUNT = tokens · H gates."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < COUNT
    token, head = (index // H).to(tl.int64), index % H
    step = tl.load(a + token * stride_a + head, mask=mask, other=0.0).to(tl.float32)
    step += tl.load(dt_bias + head, mask=mask, other=0.0).to(tl.float32)
    power = tl.exp(tl.minimum(step, 20.0))
    # Added to 1, a small power would lose its digits, and with them the slow decay of a head.
    small = power * (1.0 - power * (0.5 - power / 3.0))
    softplus = tl.where(step > 20.0, step, tl.where(power < 0.01, small, tl.log(1.0 + power)))
    rate = tl.exp(tl.load(A_log + head, mask=mask, other=0.0).to(tl.float32))
    tl.store(g + index, -rate * softplus, mask=mask)
    logits = tl.load(beta_logits + token * stride_beta + head, mask=mask, other=0.0).to(tl.float32)
    tl.store(beta + index, sigmoid(logits), mask=mask)


@triton.jit
def gates_backward_kernel(
    d_g, d_beta, g, beta, a, A_log, dt_bias, d_logits, d_a, sums, COUNT, stride_a,
    H: tl.constexpr, BH: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of BT of the COUNT tokens, and their sums [programs, 2, H] for A_log and dt_bias."""
    token = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)[:, None]
    head = tl.arange(0, BH)[None, :]
    mask = (token < COUNT) & (head < H)
    place = token * H + head
    b_d_g = tl.load(d_g + place, mask=mask, other=0.0)
    strength = tl.load(beta + place, mask=mask, other=0.0)
    b_d_logits = tl.load(d_beta + place, mask=mask, other=0.0) * strength * (1.0 - strength)
    tl.store(d_logits + place, b_d_logits.to(d_logits.dtype.element_ty), mask=mask)
    step = tl.load(a + token * stride_a + head, mask=mask, other=0.0).to(tl.float32)
    step += tl.load(dt_bias + head, mask=head < H, other=0.0).to(tl.float32)
    rate = tl.exp(tl.load(A_log + head, mask=head < H, other=0.0).to(tl.float32))
    d_step = -rate * sigmoid(step) * b_d_g
    tl.store(d_a + place, d_step.to(d_a.dtype.element_ty), mask=mask)
    d_A_log = b_d_g * tl.load(g + place, mask=mask, other=0.0)
    sums += tl.program_id(0) * 2 * H + tl.arange(0, BH)
    tl.store(sums, tl.sum(d_A_log, axis=0), mask=tl.arange(0, BH) < H)
    tl.store(sums + H, tl.sum(d_step, axis=0), mask=tl.arange(0, BH) < H)


def forward(
    beta_logits: torch.Tensor, a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return g and beta [..., H] in float32; arguments as those of `jetlit_kernels.log_decay_and_beta`."""
    g, beta = (torch.empty(a.shape, dtype=torch.float32, device=a.device) for _ in range(2))
    heads = a.shape[-1]
    beta_logits, a = _rows(beta_logits), _rows(a)
    if g.numel():
        gates_kernel[(cdiv(g.numel(), BLOCK),)](
            beta_logits, a, A_log, dt_bias, g, beta, g.numel(), beta_logits.stride(0), a.stride(0),
            H=heads, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return g, beta


def backward(
    d_g: torch.Tensor,
    d_beta: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    a: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of beta_logits and a, in the dtype of `a`, and of A_log and dt_bias, in float32."""
    d_logits, d_a = (torch.empty(a.shape, dtype=a.dtype, device=a.device) for _ in range(2))
    heads = a.shape[-1]
    a = _rows(a)
    programs = cdiv(a.shape[0], TOKENS)
    sums = torch.empty(programs, 2, heads, dtype=torch.float32, device=a.device)
    if g.numel():
        gates_backward_kernel[(programs,)](
            d_g.contiguous(), d_beta.contiguous(), g, beta, a, A_log, dt_bias, d_logits, d_a, sums, a.shape[0],
            a.stride(0), H=heads, BH=power_of_two(heads), BT=TOKENS, num_warps=4,
        )  # fmt: skip
    d_A_log, d_dt_bias = sums.sum(0)
    return d_logits, d_a, d_A_log, d_dt_bias


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as [tokens, H] with contiguous rows; a view where there is one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
