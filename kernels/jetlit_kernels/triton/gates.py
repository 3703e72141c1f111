"""Triton gates of a JetBlock: both in one pass."""

import torch
import triton
import triton.language as tl

from jetlit_kernels.triton.chunks import cdiv

BLOCK = 512


@triton.jit
def gates_kernel(
    beta_logits, a, A_log, dt_bias, g, beta, COUNT, stride_beta, stride_a, H: tl.constexpr, BLOCK: tl.constexpr
):
    """BLOCK gates of the COUNT = tokens · H."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < COUNT
    token, head = (index // H).to(tl.int64), index % H
    step = tl.load(a + token * stride_a + head, mask=mask, other=0.0).to(tl.float32)
    step += tl.load(dt_bias + head, mask=mask, other=0.0).to(tl.float32)
    power = tl.exp(tl.minimum(step, 20.0))
    # Beside 1 a small power would lose its digits, and with them the decay of a head that remembers long.
    small = power * (1.0 - power * (0.5 - power / 3.0))
    softplus = tl.where(step > 20.0, step, tl.where(power < 0.01, small, tl.log(1.0 + power)))
    rate = tl.exp(tl.load(A_log + head, mask=mask, other=0.0).to(tl.float32))
    tl.store(g + index, -rate * softplus, mask=mask)
    logits = tl.load(beta_logits + token * stride_beta + head, mask=mask, other=0.0).to(tl.float32)
    tl.store(beta + index, 1.0 / (1.0 + tl.exp(-logits)), mask=mask)


def forward(
    beta_logits: torch.Tensor, a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """g and beta [..., H] in float32; arguments as those of `jetlit_kernels.log_decay_and_beta`."""
    g, beta = (torch.empty(a.shape, dtype=torch.float32, device=a.device) for _ in range(2))
    heads = a.shape[-1]
    beta_logits, a = _rows(beta_logits), _rows(a)
    if g.numel():
        gates_kernel[(cdiv(g.numel(), BLOCK),)](
            beta_logits, a, A_log, dt_bias, g, beta, g.numel(), beta_logits.stride(0), a.stride(0),
            H=heads, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return g, beta


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`x` as [tokens, H] with contiguous rows; a view where there is one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
