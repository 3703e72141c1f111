"""Triton kernels of the gated delta rule's backward pass.

Names as in forward_kernels; dS' is the gradient of the state after a chunk. The scan runs backwards:

    dU = Pᵀ dO + exp(G_C - G) K dS'        dX = Aᵀ dU        dV = β dX
    dS = exp(G_C) dS' + (exp(G) Q)ᵀ dO - (exp(G) K)ᵀ dV

and all other gradients follow from dO, dV, U, S and dS' of each chunk alone, in parallel:

    Z = tril(dO Uᵀ exp(G_i - G_j))         N = tril(-dV Uᵀ exp(G_i - G_j), -1)
    dβ = dV·U / β²
    dQ = exp(G) dO Sᵀ + Z K                dK = -exp(G) dV Sᵀ + exp(G_C - G) U dS'ᵀ + Zᵀ Q + (N + Nᵀ) K

No product takes the transpose of another product's result: Triton 3.4 to 3.7 miscompile that on Hopper. Zᵀ and Nᵀ
are products of their own, with the factors exchanged; Aᵀ and Pᵀ are transposes of loaded tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jetlit_kernels.activations import silu_slope
from jetlit_kernels.chunks import chunk_of_slot, span_of_sequence
from jetlit_kernels.gated_delta_rule.forward_kernels import (
    BETA,
    GATE_ROWS,
    K_FACTOR,
    Q_FACTOR,
    READ,
    READ_ERASED,
    SUM_HIGH,
    SUM_LOW,
    WRITE,
    gate_row,
    load_block,
    load_operand,
    load_square,
    load_tile,
    state_offsets,
    summed_difference,
)
from jetlit_kernels.tiles import load_tokens, store_tokens


@triton.jit
def reverse_scan_kernel(
    q, k, inverses, attentions, gates, do, d_final, carry_in, dv, d_states, carry_out, d_initial, first, group, length,
    chunks, bounds, base, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DELTA: tl.constexpr,
    HAS_D_FINAL: tl.constexpr, STORE_D_INITIAL: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Carry the state's gradient backwards through a group of chunks. Grid: (blocks of V, N · H).

    q, k, do, inverses and attentions are descriptors (`load_tile` for q, `load_operand`, `load_square`).

    Writes dv, each chunk's dS' [slots, H, K, V], and the gradient of the state where the group starts: into d_initial
    for a sequence that starts in it, into carry_out [rows, H, K, V] for one that reaches further back.
    """
    column = tl.program_id(0) * BV
    n = tl.program_id(1) // H
    head = tl.program_id(1) % H
    start, end, count, shift, row, low, high = span_of_sequence(
        n, first, first + group, length, chunks, bounds, base, SIZE=C, PACKED=PACKED
    )
    if (low >= high) & ((count > 0) | (first > 0)):
        return
    d_state = tl.zeros((BK, BV), tl.float32)
    if (high == count) | (count == 0):
        if HAS_D_FINAL:
            offsets, mask = state_offsets(n * H + head, column, K, V, BK, BV)
            d_state = tl.load(d_final + offsets, mask=mask, other=0.0).to(tl.float32)
    else:
        offsets, mask = state_offsets(row * H + head, column, K, V, BK, BV)
        d_state = tl.load(carry_in + offsets, mask=mask, other=0.0)

    for step in range(low, high):
        chunk = high - 1 - (step - low)
        place = (row * chunks + shift + chunk).to(tl.int64)  # among the chunks of all rows
        slot = (row * group + shift + chunk - first).to(tl.int64)
        begin = start + chunk * C
        # All gates before the first tile, as in the forward scan.
        write = gate_row(gates, place, head, WRITE, H, C)
        read = gate_row(gates, place, head, READ, H, C)
        last = gates + ((place * H + head) * GATE_ROWS + SUM_HIGH) * C + C - 1
        log_keep = tl.load(last) + tl.load(last + C)
        if DELTA:
            read_erased = gate_row(gates, place, head, READ_ERASED, H, C)
            strength = gate_row(gates, place, head, BETA, H, C)
        b_q = load_tile(q, begin, head, 0, C, BK)
        b_k = load_operand(k, begin, head, 0, C, BK)
        b_do = load_operand(do, begin, head, column, C, BV)
        b_attention = load_square(attentions, place, head, H, C)
        keep = tl.exp(log_keep)

        b_d_state = d_state.to(b_k.dtype)
        offsets, mask = state_offsets(slot * H + head, column, K, V, BK, BV)
        tl.store(d_states + offsets, b_d_state, mask=mask)
        d_update = tl.dot(b_k, b_d_state, input_precision=PRECISION) * write[:, None]
        d_update = tl.dot(tl.trans(b_attention), b_do, d_update, input_precision=PRECISION)
        b_do_read = (b_do.to(tl.float32) * read[:, None]).to(b_k.dtype)
        d_state = tl.dot(tl.trans(b_q), b_do_read, d_state * keep, input_precision=PRECISION)
        if DELTA:
            b_inverse = load_square(inverses, place, head, H, C)
            d_target = tl.dot(tl.trans(b_inverse), d_update.to(b_k.dtype), d_update, input_precision=PRECISION)
            d_update = d_target * strength[:, None]
            erased = (d_target * -read_erased[:, None]).to(b_k.dtype)
            d_state = tl.dot(tl.trans(b_k), erased, d_state, input_precision=PRECISION)
        store_tokens(dv, d_update, begin, end, head, H, V, column, C, BV)

    if low == 0:
        if STORE_D_INITIAL:
            offsets, mask = state_offsets(n * H + head, column, K, V, BK, BV)
            tl.store(d_initial + offsets, d_state, mask=mask)
    else:
        offsets, mask = state_offsets(row * H + head, column, K, V, BK, BV)
        tl.store(carry_out + offsets, d_state, mask=mask)


@triton.jit
def _products(
    do, dv, updates, states, d_states, slot, begin, head, H, k_offset,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BETWEEN: tl.constexpr, DELTA: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return all sums over V, in one loop, since all read the same tiles.

    Of a block of K: dO Sᵀ, dV Sᵀ and U dS'ᵀ [C, BK], and its share of S · dS'. Between tokens, if BETWEEN: dO Uᵀ, its
    transpose, dV Uᵀ, its transpose [C, C], and dV·U [C].
    """
    attention = tl.zeros((C, C), tl.float32)
    attention_t = tl.zeros((C, C), tl.float32)
    lower = tl.zeros((C, C), tl.float32)
    lower_t = tl.zeros((C, C), tl.float32)
    update_dv = tl.zeros((C,), tl.float32)
    d_read = tl.zeros((C, BK), tl.float32)
    d_erased = tl.zeros((C, BK), tl.float32)
    d_written = tl.zeros((C, BK), tl.float32)
    overlap = tl.zeros((BK, BV // 8), tl.float32)
    for column in range(0, V, BV):
        b_do = load_operand(do, begin, head, column, C, BV)
        b_u = load_block(updates, slot, head, H, 0, column, C, BV)
        b_state = load_block(states, slot, head, H, k_offset, column, BK, BV)
        b_d_state = load_block(d_states, slot, head, H, k_offset, column, BK, BV)
        if BETWEEN:
            attention = tl.dot(b_do, tl.trans(b_u), attention, input_precision=PRECISION)
            attention_t = tl.dot(b_u, tl.trans(b_do), attention_t, input_precision=PRECISION)
        d_read = tl.dot(b_do, tl.trans(b_state), d_read, input_precision=PRECISION)
        d_written = tl.dot(b_u, tl.trans(b_d_state), d_written, input_precision=PRECISION)
        if DELTA:
            b_dv = load_operand(dv, begin, head, column, C, BV)
            if BETWEEN:
                lower = tl.dot(b_dv, tl.trans(b_u), lower, input_precision=PRECISION)
                lower_t = tl.dot(b_u, tl.trans(b_dv), lower_t, input_precision=PRECISION)
                update_dv += tl.sum(b_dv.to(tl.float32) * b_u.to(tl.float32), axis=1)
            d_erased = tl.dot(b_dv, tl.trans(b_state), d_erased, input_precision=PRECISION)
        # Neighbors are summed inside a thread: an eighth of the registers.
        both = tl.reshape(b_state.to(tl.float32) * b_d_state.to(tl.float32), (BK, BV // 8, 8))
        overlap += tl.sum(both, axis=2)
    overlap = tl.sum(tl.sum(overlap, axis=1), axis=0)
    return d_read, d_erased, d_written, overlap, attention, attention_t, lower, lower_t, update_dv


@triton.jit
def _between_tokens(attention, attention_t, lower, lower_t, gates, place, head, H, scale, C: tl.constexpr):
    """Return Z, Zᵀ, N and Nᵀ [C, C], times the factors of the norms, from dO Uᵀ, U dOᵀ, dV Uᵀ and U dVᵀ.

    The transposes are products of their own: see the module's docstring.
    """
    c = tl.arange(0, C)
    high = gate_row(gates, place, head, SUM_HIGH, H, C)
    low = gate_row(gates, place, head, SUM_LOW, H, C)
    k_factor = gate_row(gates, place, head, K_FACTOR, H, C)
    q_factor = gate_row(gates, place, head, Q_FACTOR, H, C) * scale
    row, column = c[:, None], c[None, :]
    # q_i·k_j as given, hence the factors of both norms here.
    decay = tl.exp(tl.where(row >= column, summed_difference(high, low), float("-inf")))
    attention *= decay * (q_factor[:, None] * k_factor[None, :])
    lower = tl.where(row > column, lower * decay * (k_factor[:, None] * -k_factor[None, :]), 0.0)
    decay_t = tl.exp(tl.where(row <= column, -summed_difference(high, low), float("-inf")))
    attention_t *= decay_t * (k_factor[:, None] * q_factor[None, :])
    lower_t = tl.where(row < column, lower_t * decay_t * (k_factor[:, None] * -k_factor[None, :]), 0.0)
    return attention, attention_t, lower, lower_t


@triton.jit
def _sums_between_tokens(b_q, b_k, z, n, C: tl.constexpr, DELTA: tl.constexpr, PRECISION: tl.constexpr):
    """Return what pairs of tokens of a chunk contribute to q·dq, to k·dk and to the gradient of G, each [C].

    Of a block of K: the blocks' sums are to be added.
    """
    c = tl.arange(0, C)
    by_attention = z * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    # The diagonal does not depend on the decays; left in, it would cancel but for rounding.
    strict = tl.where(c[:, None] > c[None, :], by_attention, 0.0)
    k_dk = tl.sum(by_attention, axis=0)
    d_sum = tl.sum(strict, axis=1) - tl.sum(strict, axis=0)
    if DELTA:
        by_lower = n * tl.dot(b_k, tl.trans(b_k), input_precision=PRECISION)
        rows, columns = tl.sum(by_lower, axis=1), tl.sum(by_lower, axis=0)
        k_dk += rows + columns
        d_sum += rows - columns
    return tl.sum(by_attention, axis=1), k_dk, d_sum


@triton.jit
def chunk_gradient_kernel(
    q, k, given_q, given_k, gates, do, dv, updates, states, d_states, dq, dk, dg, dbeta, first, group, length, chunks,
    sequences, bounds, base, owners, scale, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, L2NORM: tl.constexpr,
    SILU: tl.constexpr, DELTA: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write dq, dk, dg and dbeta of a chunk and head. Grid: (slots, H).

    q, k, do, dv, updates, states and d_states are descriptors (`load_operand`, `load_block`). With SILU, q and k are
    the activated ones and may lie where dq and dk go: a block of columns is read for the last time before its gradient
    is written. given_q and given_k are those before SiLU.
    When K needs several blocks, the gradients of the norms and of the gates need all of them first: the products with
    the states are then computed twice.
    """
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    real, begin, end = chunk_of_slot(
        slot, first, group, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    place = (slot // group) * chunks + first + slot % group  # among the chunks of all rows
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    c = tl.arange(0, C)
    inside = begin + c < end
    dtype: tl.constexpr = dq.dtype.element_ty
    q_dq_inner = tl.zeros((C,), tl.float32)
    k_dk = tl.zeros((C,), tl.float32)
    d_sum = tl.zeros((C,), tl.float32)
    q_dq = tl.zeros((C,), tl.float32)
    by_erased = tl.zeros((C,), tl.float32)
    by_written = tl.zeros((C,), tl.float32)
    overlap = 0.0
    for block in tl.static_range(BLOCKS):
        offset = block * BK
        d_read, d_erased, d_written, block_overlap, attention, attention_t, lower, lower_t, update_dv = _products(
            do, dv, updates, states, d_states, slot, begin, head, H, offset, V, C, BK, BV, block == 0, DELTA, PRECISION
        )
        if block == 0:
            z, z_t, n, n_t = _between_tokens(attention, attention_t, lower, lower_t, gates, place, head, H, scale, C)
            b_z_t = z_t.to(dtype)
            b_n = (-n - n_t).to(dtype)  # one is below the diagonal, the other above
            if DELTA:
                b_beta = gate_row(gates, place, head, BETA, H, C)
                b_dbeta = update_dv / b_beta / b_beta
                tl.store(dbeta + (begin + c) * H + head, b_dbeta.to(dbeta.dtype.element_ty), mask=inside)
        b_q = load_operand(q, begin, head, offset, C, BK)
        b_k = load_operand(k, begin, head, offset, C, BK)
        block_q_dq, block_k_dk, block_d_sum = _sums_between_tokens(b_q, b_k, z, n, C, DELTA, PRECISION)
        q_dq_inner += block_q_dq
        k_dk += block_k_dk
        d_sum += block_d_sum
        # Asked for after a block's products, through which they would hold registers.
        k_factor = gate_row(gates, place, head, K_FACTOR, H, C)
        q_factor = gate_row(gates, place, head, Q_FACTOR, H, C)
        # The factors of the unit-length vectors stand beside the decays, since q and k are read as given.
        read = gate_row(gates, place, head, READ, H, C)
        erased = gate_row(gates, place, head, SUM_HIGH, H, C) + gate_row(gates, place, head, SUM_LOW, H, C)
        erased = -tl.exp(erased) * k_factor
        write = gate_row(gates, place, head, WRITE, H, C)
        q_dq += tl.sum(b_q.to(tl.float32) * d_read, axis=1) * read
        by_erased += tl.sum(b_k.to(tl.float32) * d_erased, axis=1) * erased
        by_written += tl.sum(b_k.to(tl.float32) * d_written, axis=1) * write
        overlap += block_overlap
    b_z = z.to(dtype)

    last = gates + ((place * H + head) * GATE_ROWS + SUM_HIGH) * C + C - 1
    keep = tl.exp(tl.load(last) + tl.load(last + C))
    # The last token's write does not decay within the chunk.
    decaying = tl.where(begin + c < tl.minimum(end, begin + C) - 1, by_written, 0.0)
    d_sum += q_dq + by_erased - decaying
    b_dg = tl.cumsum(d_sum, axis=0, reverse=True) + tl.sum(decaying, axis=0) + keep * overlap
    tl.store(dg + (begin + c) * H + head, b_dg.to(dg.dtype.element_ty), mask=inside)

    q_dq += q_dq_inner
    k_dk += by_erased + by_written
    for block in tl.static_range(BLOCKS):
        offset = block * BK
        if BLOCKS > 1:
            d_read, d_erased, d_written = _products(
                do, dv, updates, states, d_states, slot, begin, head, H, offset, V, C, BK, BV, False, DELTA, PRECISION
            )[:3]
            b_q = load_operand(q, begin, head, offset, C, BK)
            b_k = load_operand(k, begin, head, offset, C, BK)
        if SILU:  # asked for before the products that hide the wait
            b_given_k = load_tokens(given_k, begin, end, head, H, K, offset, C, BK)
            b_given_q = load_tokens(given_q, begin, end, head, H, K, offset, C, BK)
        b_dk = d_erased * erased[:, None] + d_written * write[:, None]
        b_dk = tl.dot(b_z_t, b_q, b_dk, input_precision=PRECISION)
        if DELTA:
            # Subtracted: of products added to one another, Triton lets both groups of warps compute the same.
            b_dk -= tl.dot(b_n, b_k, input_precision=PRECISION)
        if L2NORM:
            # Through x |x|⁻¹ passes what is perpendicular to x; the first factor |x|⁻¹ is in the products already.
            b_dk -= b_k.to(tl.float32) * (k_factor * k_factor * k_dk)[:, None]
        if SILU:
            b_dk *= silu_slope(b_given_k.to(tl.float32), FAST=dtype != tl.float32)
        store_tokens(dk, b_dk, begin, end, head, H, K, offset, C, BK)
        # One after the other: both at once do not fit into the registers.
        b_dq = tl.dot(b_z, b_k, d_read * read[:, None], input_precision=PRECISION)
        if L2NORM:
            b_dq -= b_q.to(tl.float32) * (q_factor * q_factor * q_dq)[:, None]
        if SILU:
            b_dq *= silu_slope(b_given_q.to(tl.float32), FAST=dtype != tl.float32)
        store_tokens(dq, b_dq, begin, end, head, H, K, offset, C, BK)
