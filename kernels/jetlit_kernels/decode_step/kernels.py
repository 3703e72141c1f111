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
def _convolve(
    x, kernels, stride_kernels, bias, window, batch, slot, channel, in_range, D: tl.constexpr, W: tl.constexpr,
    WP: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Append the inputs x of some channels to a window in place; return the convolution in float32."""
    tap = tl.arange(0, WP)
    line = (slot * D + channel)[:, None] * W + tap[None, :]
    inside = in_range[:, None] & (tap < W)[None, :]
    weights = kernels + batch * stride_kernels + channel[:, None] * W + tap[None, :]
    weights = tl.load(weights, mask=inside, other=0.0).to(tl.float32)
    inputs = tl.load(window + line + 1, mask=inside & (tap < W - 1)[None, :], other=0.0)
    inputs = tl.where((tap == W - 1)[None, :], x.to(inputs.dtype)[:, None], inputs)
    # A slot is read by one thread and written by another: all have read before any writes.
    tl.debug_barrier()
    tl.store(window + line, inputs, mask=inside)
    y = tl.sum(weights * inputs.to(tl.float32), axis=1)
    if HAS_BIAS:
        y += tl.load(bias + channel, mask=in_range, other=0.0).to(tl.float32)
    return y


@triton.jit
def decode_kernel(
    q, k, v, recurrent_state, norm_weight, gate, skip_weight, beta_logits, log_decay, a, A_log, dt_bias,
    q_kernels, k_kernels, v_kernels, q_bias, k_bias, v_bias, q_window, k_window, v_window, slots, out,
    stride_q, stride_k, stride_v, stride_gate, stride_beta, stride_a, stride_q_kernels, stride_k_kernels,
    stride_v_kernels, stride_decay_b, stride_decay_h, stride_decay_k, scale, eps,
    H: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, NV: tl.constexpr,
    NVP: tl.constexpr, QW: tl.constexpr, QWP: tl.constexpr, KW: tl.constexpr, KWP: tl.constexpr, W: tl.constexpr,
    WP: tl.constexpr, DELTA: tl.constexpr, QK_SILU: tl.constexpr, QK_NORM: tl.constexpr, NORM_FIRST: tl.constexpr,
    HAS_GATE: tl.constexpr, HAS_SKIP: tl.constexpr, HAS_BETA: tl.constexpr, HAS_DECAY: tl.constexpr,
    VECTOR_DECAY: tl.constexpr, HAS_A: tl.constexpr, HAS_Q_BIAS: tl.constexpr, HAS_K_BIAS: tl.constexpr,
    HAS_V_BIAS: tl.constexpr, HAS_SLOTS: tl.constexpr, NEARER: tl.constexpr, OVERLAP: tl.constexpr,
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
    slot = tl.load(slots + batch).to(tl.int64) if HAS_SLOTS else batch
    in_key = row < K
    query = tl.load(q + batch * stride_q + head * K + row, mask=in_key, other=0.0)
    key = tl.load(k + batch * stride_k + head * K + row, mask=in_key, other=0.0)
    if QW:
        query = _convolve(
            query, q_kernels, stride_q_kernels, q_bias, q_window, batch, slot, head * K + row, in_key, H * K, QW, QWP,
            HAS_Q_BIAS,
        )  # fmt: skip
    if KW:
        key = _convolve(
            key, k_kernels, stride_k_kernels, k_bias, k_window, batch, slot, head * K + row, in_key, H * K, KW, KWP,
            HAS_K_BIAS,
        )  # fmt: skip
    query, key = query.to(tl.float32), key.to(tl.float32)
    if QK_SILU:
        query, key = silu(query), silu(key)
    if QK_NORM:
        query *= tl.rsqrt(tl.sum(query * query) + 1e-6)
        key *= tl.rsqrt(tl.sum(key * key) + 1e-6)
    query *= scale
    key_query = tl.sum(key * query)
    beta = 1.0
    if HAS_A:
        beta = _softplus(tl.load(a + batch * stride_a + head).to(tl.float32) + tl.load(dt_bias + head).to(tl.float32))
        decay = tl.exp(-tl.exp(tl.load(A_log + head).to(tl.float32)) * beta)
    if HAS_DECAY:
        place = log_decay + batch * stride_decay_b + head * stride_decay_h
        if VECTOR_DECAY:
            decays = tl.exp(tl.load(place + row * stride_decay_k, mask=in_key, other=0.0).to(tl.float32))
        else:
            decay = tl.exp(tl.load(place).to(tl.float32))
    if HAS_BETA:
        beta = sigmoid(tl.load(beta_logits + batch * stride_beta + head).to(tl.float32))
    if HAS_SKIP:
        skip = tl.load(skip_weight + head).to(tl.float32)

    piece = tl.arange(0, NVP)
    result = tl.zeros([NVP, BV], dtype=tl.float32)
    for number in range(NV):
        column = number * BV + tl.arange(0, BV)
        channel = head * V + column
        state_ptr = recurrent_state + ((slot * H + head) * K + row)[:, None] * V + column[None, :]
        mask = in_key[:, None] & (column < V)[None, :]
        state = tl.load(state_ptr, mask=mask, other=0.0)
        value = tl.load(v + batch * stride_v + channel, mask=column < V, other=0.0)
        if W:
            value = silu(
                _convolve(
                    value, v_kernels, stride_v_kernels, v_bias, v_window, batch, slot, channel, column < V, H * V, W,
                    WP, HAS_V_BIAS,
                )
            )  # fmt: skip
        value = value.to(tl.float32)

        if VECTOR_DECAY:
            state *= decays[:, None]
        elif HAS_A or HAS_DECAY:
            state *= decay
        write = value
        if DELTA:
            write = value - tl.sum(state * key[:, None], axis=0)
        write *= beta
        o = tl.sum(state * query[:, None], axis=0) + key_query * write
        tl.store(state_ptr, state + key[:, None] * write[None, :], mask=mask)
        if HAS_SKIP:
            o += skip * value
        result = tl.where((piece == number)[:, None], o[None, :], result)

    column = piece[:, None] * BV + tl.arange(0, BV)[None, :]
    mask = column < V
    result = tl.where(mask, result, 0.0)
    if HAS_GATE:
        z = tl.load(gate + batch * stride_gate + head * V + column, mask=mask, other=0.0).to(tl.float32)
        if not NORM_FIRST:
            result *= silu(z)
    w = tl.load(norm_weight + column, mask=mask, other=0.0).to(tl.float32)
    result *= tl.rsqrt(tl.sum(result * result) / V + eps) * w
    if HAS_GATE and NORM_FIRST:
        result *= silu(z)
    tl.store(out + (batch * H + head) * V + column, result.to(out.dtype.element_ty), mask=mask)


def recurrent_step(x: Arguments, config: Config | None = None) -> torch.Tensor:
    """Run the step in one launch; return its result [B, H, V]."""
    (batch, heads, key_dim), value_dim = x.q.shape, x.v.shape[-1]
    out = torch.empty(batch, heads, value_dim, dtype=x.v.dtype, device=x.v.device)
    if not batch:
        return out
    q, k, v, gate, beta_logits, a, *kernels = (
        _rows(t) for t in (x.q, x.k, x.v, x.gate, x.beta_logits, x.a, x.q_kernels, x.k_kernels, x.v_kernels)
    )
    config = config or choose(batch * heads, key_dim, value_dim)
    pieces = cdiv(value_dim, config.BV)
    overlap = overlapped(x.v)
    # Many programs keep the memory busy without it. A thread asks for a row of the state.
    nearer = overlap["OVERLAP"] and batch * heads <= FEW_PROGRAMS and key_dim <= 32 * config.num_warps
    nearer = nearer and value_dim % 4 == 0 and x.recurrent_state.data_ptr() % 16 == 0 and x.slots is None
    widths = [0 if window is None else window.shape[-1] for window in (x.q_window, x.k_window, x.v_window)]
    padded = [power_of_two(max(width, 1)) for width in widths]
    strides = (0, 0, 0) if x.log_decay is None else (*x.log_decay.stride(), 0)[:3]
    decode_kernel[(batch, heads)](
        q, k, v, x.recurrent_state, x.norm_weight, gate, x.skip_weight, beta_logits, x.log_decay, a, x.A_log,
        x.dt_bias, *kernels, x.q_bias, x.k_bias, x.v_bias, x.q_window, x.k_window, x.v_window, x.slots, out,
        *(0 if t is None else t.stride(0) for t in (q, k, v, gate, beta_logits, a, *kernels)), *strides, x.scale,
        x.norm_eps, H=heads, K=key_dim, KP=power_of_two(key_dim), V=value_dim, BV=config.BV, NV=pieces,
        NVP=power_of_two(pieces), QW=widths[0], QWP=padded[0], KW=widths[1], KWP=padded[1], W=widths[2], WP=padded[2],
        DELTA=x.delta_rule, QK_SILU=x.qk_silu, QK_NORM=x.qk_l2norm, NORM_FIRST=x.norm_before_gate,
        HAS_GATE=gate is not None, HAS_SKIP=x.skip_weight is not None, HAS_BETA=beta_logits is not None,
        HAS_DECAY=x.log_decay is not None, VECTOR_DECAY=x.log_decay is not None and x.log_decay.ndim == 3,
        HAS_A=a is not None, HAS_Q_BIAS=x.q_bias is not None, HAS_K_BIAS=x.k_bias is not None,
        HAS_V_BIAS=x.v_bias is not None, HAS_SLOTS=x.slots is not None, NEARER=nearer,
        num_warps=config.num_warps, num_stages=2, **overlap,
    )  # fmt: skip
    return out


def choose(programs: int, key_dim: int, value_dim: int) -> Config:
    """Return the configuration for so many sequences times heads."""
    if programs > FEW_PROGRAMS:
        return Config(64, 4 if key_dim <= 128 else 8)
    return Config(max(64, min(power_of_two(value_dim), STATE_AT_ONCE // power_of_two(key_dim))), 16)


def _rows(x: torch.Tensor | None) -> torch.Tensor | None:
    """Return `x` if each of its rows is contiguous, else a contiguous copy."""
    return x if x is None or x[0].is_contiguous() else x.contiguous()
