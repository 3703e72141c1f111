"""Triton decode step: one program per sequence and head, its state read once and written once."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from jetlit_kernels.activations import sigmoid, silu
from jetlit_kernels.decode_step.arguments import Arguments
from jetlit_kernels.overlap import bring_nearer, overlapped, wait_for_inputs
from jetlit_kernels.sizes import cdiv, power_of_two


class Config(NamedTuple):
    """Columns of the state that a program holds at once, and its warps."""

    BV: int
    num_warps: int


# A program walks its columns block by block. Where few programs run, each takes as much of the state at once as the
# registers of a multiprocessor hold, to hide the latency. benchmarks/decode_memory.py times other choices.
FEW_PROGRAMS = 128
STATE_AT_ONCE = 32768


@triton.jit
def _softplus(x):
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


@triton.jit
def decode_kernel(
    q, k, v, gate, beta_logits, a, conv_kernels, A_log, dt_bias, norm_weight, conv_state, recurrent_state, out,
    stride_q, stride_k, stride_v, stride_gate, stride_beta, stride_a, stride_kernels, scale, eps,
    H: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, NV: tl.constexpr,
    NVP: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, NEARER: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Advance one head by one token.

    With S the decayed old state, o = Sᵀq + (k·q)·write, so one reading of S serves both.
    """
    batch = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = tl.arange(0, KP)
    if NEARER:
        bring_nearer(recurrent_state + (batch * H + head) * K * V, K, 4 * V, 4 * V)
    wait_for_inputs(OVERLAP)
    query = silu(tl.load(q + batch * stride_q + head * K + row, mask=row < K, other=0.0).to(tl.float32))
    key = silu(tl.load(k + batch * stride_k + head * K + row, mask=row < K, other=0.0).to(tl.float32))
    query *= tl.rsqrt(tl.sum(query * query) + 1e-6) * scale
    key *= tl.rsqrt(tl.sum(key * key) + 1e-6)
    key_query = tl.sum(key * query)
    beta = sigmoid(tl.load(beta_logits + batch * stride_beta + head).to(tl.float32))
    step = tl.load(a + batch * stride_a + head).to(tl.float32) + tl.load(dt_bias + head).to(tl.float32)
    decay = tl.exp(-tl.exp(tl.load(A_log + head).to(tl.float32)) * _softplus(step))

    tap = tl.arange(0, WP)
    piece = tl.arange(0, NVP)
    result = tl.zeros([NVP, BV], dtype=tl.float32)
    for number in range(NV):
        column = number * BV + tl.arange(0, BV)
        channel = head * V + column
        state_ptr = recurrent_state + ((batch * H + head) * K + row)[:, None] * V + column[None, :]
        mask = (row < K)[:, None] & (column < V)[None, :]
        state = tl.load(state_ptr, mask=mask, other=0.0)

        newest = tl.load(v + batch * stride_v + channel, mask=column < V, other=0.0)
        line = (batch * H * V + channel)[:, None] * W + tap[None, :]
        inside = (column < V)[:, None] & (tap < W)[None, :]
        weights = conv_kernels + batch * stride_kernels + channel[:, None] * W + tap[None, :]
        weights = tl.load(weights, mask=inside, other=0.0).to(tl.float32)
        window = tl.load(conv_state + line + 1, mask=inside & (tap < W - 1)[None, :], other=0.0)
        window = tl.where((tap == W - 1)[None, :], newest.to(window.dtype)[:, None], window)
        # A slot is read by one thread and written by another: all have read before any writes.
        tl.debug_barrier()
        tl.store(conv_state + line, window, mask=inside)
        value = silu(tl.sum(weights * window.to(tl.float32), axis=1))

        state *= decay
        write = beta * (value - tl.sum(state * key[:, None], axis=0))
        o = tl.sum(state * query[:, None], axis=0) + key_query * write
        tl.store(state_ptr, state + key[:, None] * write[None, :], mask=mask)
        result = tl.where((piece == number)[:, None], o[None, :], result)

    column = piece[:, None] * BV + tl.arange(0, BV)[None, :]
    mask = column < V
    result = tl.where(mask, result, 0.0)
    norm = tl.rsqrt(tl.sum(result * result) / V + eps)
    z = tl.load(gate + batch * stride_gate + head * V + column, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(norm_weight + column, mask=mask, other=0.0).to(tl.float32)
    result *= norm * w * silu(z)
    tl.store(out + (batch * H + head) * V + column, result.to(out.dtype.element_ty), mask=mask)


def jet_decode_step(x: Arguments, config: Config | None = None) -> torch.Tensor:
    """Run the step in one launch; return its result [B, H, V]."""
    (batch, heads, key_dim), value_dim, taps = x.q.shape, x.v.shape[-1], x.conv_kernels.shape[-1]
    out = torch.empty(batch, heads, value_dim, dtype=x.v.dtype, device=x.v.device)
    if not batch:
        return out
    per_token = [_rows(t) for t in x[:7]]  # from q to conv_kernels
    config = config or choose(batch * heads, key_dim, value_dim)
    pieces = cdiv(value_dim, config.BV)
    overlap = overlapped(x.v)
    # Many programs keep the memory busy without it. A thread asks for a row of the state.
    nearer = overlap["OVERLAP"] and batch * heads <= FEW_PROGRAMS and key_dim <= 32 * config.num_warps
    nearer = nearer and value_dim % 4 == 0 and x.recurrent_state.data_ptr() % 16 == 0
    decode_kernel[(batch, heads)](
        *per_token, x.A_log, x.dt_bias, x.norm_weight, x.conv_state, x.recurrent_state, out,
        *(t.stride(0) for t in per_token), x.scale, x.norm_eps,
        H=heads, K=key_dim, KP=power_of_two(key_dim), V=value_dim, BV=config.BV, NV=pieces,
        NVP=power_of_two(pieces), W=taps, WP=power_of_two(taps), NEARER=nearer,
        num_warps=config.num_warps, num_stages=2, **overlap,
    )  # fmt: skip
    return out


def choose(programs: int, key_dim: int, value_dim: int) -> Config:
    """Return the configuration for so many sequences times heads."""
    if programs > FEW_PROGRAMS:
        return Config(64, 4 if key_dim <= 128 else 8)
    return Config(max(64, min(power_of_two(value_dim), STATE_AT_ONCE // power_of_two(key_dim))), 16)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return `x` if each of its rows is contiguous, else a contiguous copy."""
    return x if x[0].is_contiguous() else x.contiguous()
