"""Triton kernels of the gated delta rule's forward pass: the inside of the chunks, then the scan over them.

With k and q of unit length, q scaled, G the running sum of the log decays inside a chunk of C tokens, S the state at
its start (all per head):

    L = tril(β_i exp(G_i - G_j) k_i·k_j, -1)        A = (I + L)⁻¹        P = tril(exp(G_i - G_j) q_i·k_j)
    U = A (β V - β exp(G) K S)                      O = exp(G) Q S + P U
    S ← exp(G_C) S + Kᵀ exp(G_C - G) U

Without DELTA, for linear attention, U is V and neither A nor β exists.

`prepare_kernel` computes A and P of all chunks in parallel, `scan_kernel` the rest, one program a block of columns of
V; also one a segment of a long row, where the former leave a GPU idle (`segments`). The factors of the
L2 norm stay outside the products: q and k enter them as they were given, or after SiLU, whose results `prepare_kernel`
writes for the scan.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jetlit_kernels.activations import silu
from jetlit_kernels.chunks import chunk_of_slot, span_of_sequence
from jetlit_kernels.tiles import store_tokens

# Rows of `gates` [slots, H, GATE_ROWS, C], float32: what a token contributes to each product of the scan.
GATE_ROWS = tl.constexpr(8)
READ_ERASED = tl.constexpr(0)  # β exp(G) |k|⁻¹
BETA = tl.constexpr(1)
WRITE = tl.constexpr(2)  # exp(G_C - G) |k|⁻¹
READ = tl.constexpr(3)  # scale exp(G) |q|⁻¹
SUM_HIGH = tl.constexpr(4)  # G = SUM_HIGH + SUM_LOW
SUM_LOW = tl.constexpr(5)
K_FACTOR = tl.constexpr(6)  # |k|⁻¹
Q_FACTOR = tl.constexpr(7)  # |q|⁻¹

# U and dV are proportional to β, and dβ = U·dV / β². A smaller β is replaced by this number: small enough to write
# nothing that any result could show, large enough that U and dV keep their digits.
SMALLEST_BETA = tl.constexpr(2.0**-50)


@triton.jit
def gate_row(gates, slot, head, row, H, C: tl.constexpr):
    """Load one row [C] of a chunk's gates."""
    return tl.load(gates + ((slot * H + head) * GATE_ROWS + row) * C + tl.arange(0, C))


@triton.jit
def load_tile(x, begin, head, offset, C: tl.constexpr, BLOCK: tl.constexpr):
    """Load [C, BLOCK] through a descriptor of x [tokens, H, WIDTH]: zeros past the end of x, not of a sequence."""
    return tl.reshape(x.load([begin.to(tl.int32), head, offset]), (C, BLOCK))


@triton.jit
def load_operand(x, begin, head, offset, C: tl.constexpr, BLOCK: tl.constexpr):
    """Like `load_tile`, through a descriptor of x [H, tokens, WIDTH]: products take the tile from shared memory.

    Triton drops a leading dimension of one while it loads; one in the middle costs a way through registers.
    """
    return tl.reshape(x.load([head, begin.to(tl.int32), offset]), (C, BLOCK))


@triton.jit
def load_square(x, slot, head, H, C: tl.constexpr):
    """Load the tile [C, C] of a chunk and head through a descriptor of x [slots · H · C, C]."""
    return x.load([((slot * H + head) * C).to(tl.int32), 0])


@triton.jit
def load_block(x, slot, head, H, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load [ROWS, COLUMNS] of a chunk and head through a descriptor of x [slots · H, .., ..]."""
    return tl.reshape(x.load([(slot * H + head).to(tl.int32), row, column]), (ROWS, COLUMNS))


@triton.jit
def state_offsets(index, offset, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Return offsets and mask of the block [BK, BV] at column `offset` of the state number `index` in [.., K, V]."""
    row = tl.arange(0, BK)
    column = offset + tl.arange(0, BV)
    offsets = index.to(tl.int64) * K * V + row[:, None] * V + column[None, :]
    return offsets, (row < K)[:, None] & (column < V)[None, :]


@triton.jit
def summed_difference(high, low):
    """Return G_i - G_j for all pairs [C, C], from a sum kept in two float32 numbers."""
    return (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])


@triton.jit
def diagonal_blocks(x, C: tl.constexpr, SIZE: tl.constexpr):
    """Cut the [SIZE, SIZE] blocks on the diagonal out of [C, C]: [C / SIZE, SIZE, SIZE]."""
    block = tl.arange(0, C // SIZE)
    same = (block[:, None] == block[None, :])[:, None, :, None]
    return tl.sum(tl.where(same, tl.reshape(x, (C // SIZE, SIZE, C // SIZE, SIZE)), 0.0), axis=2)


@triton.jit
def block_diagonal(x, C: tl.constexpr, SIZE: tl.constexpr):
    """Put [C / SIZE, SIZE, SIZE] on the diagonal of [C, C]."""
    block = tl.arange(0, C // SIZE)
    same = (block[:, None] == block[None, :])[:, None, :, None]
    return tl.reshape(tl.where(same, x[:, :, None, :], 0.0), (C, C))


@triton.jit
def merge_blocks(inverse, lower, WIDTH: tl.constexpr, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    """Invert I + lower [.., WIDTH, WIDTH] in blocks of 2 · SIZE, given the inverse in blocks of SIZE."""
    c = tl.arange(0, WIDTH)
    below = ((c[:, None] // (2 * SIZE)) == (c[None, :] // (2 * SIZE))) & ((c[:, None] // SIZE) > (c[None, :] // SIZE))
    if len(inverse.shape) == 3:
        below = below[None, :, :]
    step = tl.dot(inverse, tl.where(below, lower, 0.0), input_precision=PRECISION)
    return inverse - tl.dot(step, inverse, input_precision=PRECISION)


@triton.jit
def unit_lower_inverse(lower, C: tl.constexpr, PRECISION: tl.constexpr):
    """Return (I + lower)⁻¹ - I for a strictly lower triangular [C, C].

    Blocks of 8 by (I + X)(I + X²)(I + X⁴) with X = -lower, exact since X⁸ = 0: short enough that equal keys, whose
    powers grow like binomial coefficients before they cancel, lose two digits of float32 at most. Blocks of 16, 32
    and 64 by merging.
    """
    diagonal = diagonal_blocks(lower, C, 16)
    r = tl.arange(0, 16)
    power = tl.where(((r[:, None] // 8) == (r[None, :] // 8))[None, :, :], -diagonal, 0.0)
    inverse = power + tl.where(r[:, None] == r[None, :], 1.0, 0.0)[None, :, :]
    for _ in tl.static_range(2):
        power = tl.dot(power, power, input_precision="tf32x3")
        inverse += tl.dot(inverse, power, input_precision="tf32x3")
    inverse = merge_blocks(inverse, diagonal, 16, 8, "tf32x3")
    whole = block_diagonal(inverse, C, 16)
    if C >= 32:
        whole = merge_blocks(whole, lower, C, 16, PRECISION)
    if C >= 64:
        whole = merge_blocks(whole, lower, C, 32, PRECISION)
    c = tl.arange(0, C)
    return tl.where(c[:, None] == c[None, :], 0.0, whole)


@triton.jit
def prepare_kernel(
    q, k, g, beta, active_q, active_k, inverses, attentions, gates, length, chunks, sequences, bounds, base, owners,
    scale, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, L2NORM: tl.constexpr, SILU: tl.constexpr,
    DELTA: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr, SOLVE_PRECISION: tl.constexpr,
):  # fmt: skip
    """Write A - I and P [slots, H, C, C] and the gates of one chunk and head. Grid: (slots, H).

    q and k are descriptors (`load_tile`). With SILU also active_q and active_k, [tokens, H, K]: SiLU of q and k,
    rounded as all products take them.
    """
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    real, begin, end = chunk_of_slot(
        slot, 0, chunks, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    c = tl.arange(0, C)
    inside = begin + c < end
    log_decay = tl.load(g + (begin + c) * H + head, mask=inside, other=0.0).to(tl.float64)
    summed = tl.cumsum(log_decay, axis=0)
    total = tl.sum(log_decay, axis=0)
    high = summed.to(tl.float32)
    low = (summed - high.to(tl.float64)).to(tl.float32)
    if DELTA:
        b_beta = tl.load(beta + (begin + c) * H + head, mask=inside, other=0.0).to(tl.float32)
        b_beta = tl.where(tl.abs(b_beta) < SMALLEST_BETA, SMALLEST_BETA, b_beta)

    k_k = tl.zeros((C, C), tl.float32)
    q_k = tl.zeros((C, C), tl.float32)
    k_square = tl.zeros((C,), tl.float32)
    q_square = tl.zeros((C,), tl.float32)
    for column in range(0, K, BK):
        b_k = load_tile(k, begin, head, column, C, BK)
        if SILU:
            b_k = silu(b_k.to(tl.float32), FAST=b_k.dtype != tl.float32).to(b_k.dtype)
            store_tokens(active_k, b_k, begin, end, head, H, K, column, C, BK)
        k_wide = b_k.to(tl.float32)
        k_square += tl.sum(k_wide * k_wide, axis=1)
        if DELTA:
            k_k = tl.dot(b_k, tl.trans(b_k), k_k, input_precision=PRECISION)
        b_q = load_tile(q, begin, head, column, C, BK)
        if SILU:
            b_q = silu(b_q.to(tl.float32), FAST=b_q.dtype != tl.float32).to(b_q.dtype)
            store_tokens(active_q, b_q, begin, end, head, H, K, column, C, BK)
        q_wide = b_q.to(tl.float32)
        q_square += tl.sum(q_wide * q_wide, axis=1)
        q_k = tl.dot(b_q, tl.trans(b_k), q_k, input_precision=PRECISION)
    k_factor = tl.full((C,), 1.0, tl.float32)
    q_factor = tl.full((C,), 1.0, tl.float32)
    if L2NORM:
        k_factor = tl.rsqrt(k_square + 1e-6)
        q_factor = tl.rsqrt(q_square + 1e-6)
    # All kernels load whole tiles, past a sequence's end too: zero factors keep what stands there out.
    k_factor = tl.where(inside, k_factor, 0.0)
    q_factor = tl.where(inside, q_factor, 0.0)

    difference = summed_difference(high, low)
    on_or_below = c[:, None] >= c[None, :]
    decay = tl.exp(tl.where(on_or_below, difference, float("-inf")))
    tile = (slot * H + head) * C * C + c[:, None] * C + c[None, :]
    attention = q_k * decay * (scale * q_factor[:, None] * k_factor[None, :])
    tl.store(attentions + tile, attention.to(attentions.dtype.element_ty))
    row = gates + (slot * H + head) * GATE_ROWS * C + c
    from_start = tl.exp(summed.to(tl.float32))
    if DELTA:
        tl.store(row + READ_ERASED * C, b_beta * from_start * k_factor)
        tl.store(row + BETA * C, b_beta)
        k_k *= k_factor[:, None] * k_factor[None, :]
        lower = tl.where(c[:, None] > c[None, :], k_k * decay * b_beta[:, None], 0.0)
        inverse = unit_lower_inverse(lower, C, SOLVE_PRECISION)
        tl.store(inverses + tile, inverse.to(inverses.dtype.element_ty))
    tl.store(row + WRITE * C, tl.exp((total - summed).to(tl.float32)) * k_factor)
    tl.store(row + READ * C, scale * from_start * q_factor)
    tl.store(row + SUM_HIGH * C, high)
    tl.store(row + SUM_LOW * C, low)
    tl.store(row + K_FACTOR * C, k_factor)
    tl.store(row + Q_FACTOR * C, q_factor)


@triton.jit
def scan_kernel(
    q, k, v, inverses, attentions, gates, initial, final, checkpoints, o, states, updates, first, group, window,
    interval, rows, length, chunks, bounds, base, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DELTA: tl.constexpr,
    HAS_INITIAL: tl.constexpr, STORE_OUTPUT: tl.constexpr, STORE_CHECKPOINTS: tl.constexpr, STORE_STATES: tl.constexpr,
    STORE_MAPS: tl.constexpr, FROM_CHECKPOINTS: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scan the chunks of a sequence in a window of its row. Grid: (blocks of V, N · H, windows of the group).

    q, k, v, inverses and attentions are descriptors (`load_tile` for q, `load_operand`, `load_square`).

    With STORE_OUTPUT it writes o and the final states, and with STORE_CHECKPOINTS the state at every `interval`-th
    chunk of a row but its first, [.., rows, H, K, V]. With FROM_CHECKPOINTS windows start from those. With STORE_STATES
    it writes every chunk's state [slots, H, K, V] and U [slots, H, C, V] for the backward pass.

    With STORE_MAPS it writes what each window makes of a state S, M S + B, as `final` [windows, N, H, K, V + K] (not
    packed; blocks of V + K in the grid). The first V columns, B, start from zeros, or from the initial state; the other
    K, M, from the identity and without values, for past column V the descriptor of v reads zeros. M of a sequence's
    first window, which no product needs, stays the identity.
    """
    column = tl.program_id(0) * BV
    n = tl.program_id(1) // H
    head = tl.program_id(1) % H
    from_chunk = first + tl.program_id(2) * window
    to_chunk = tl.minimum(from_chunk + window, first + group)
    start, end, count, shift, row, low, high = span_of_sequence(
        n, from_chunk, to_chunk, length, chunks, bounds, base, SIZE=C, PACKED=PACKED
    )
    if STORE_MAPS:
        high = tl.where((column >= V) & (low == 0), low, high)
    state = tl.zeros((BK, BV), tl.float32)
    if HAS_INITIAL:
        offsets, mask = state_offsets(n * H + head, column, K, V, BK, BV)
        state = tl.load(initial + offsets, mask=mask & (low == 0), other=0.0).to(tl.float32)
    if STORE_MAPS:
        state += tl.where(tl.arange(0, BK)[:, None] == (column - V + tl.arange(0, BV))[None, :], 1.0, 0.0)
    if FROM_CHECKPOINTS:
        offsets, mask = state_offsets(((from_chunk // interval - 1) * rows + row) * H + head, column, K, V, BK, BV)
        state += tl.load(checkpoints + offsets, mask=mask & (low > 0) & (low < high), other=0.0)

    for chunk in range(low, high):
        place = (row * chunks + shift + chunk).to(tl.int64)  # among the chunks of all rows
        begin = start + chunk * C
        if STORE_CHECKPOINTS:
            number = shift + chunk
            if (number % interval == 0) & (chunk > 0):
                kept = ((number // interval - 1) * rows + row) * H + head
                kept_offsets, kept_mask = state_offsets(kept, column, K, V, BK, BV)
                tl.store(checkpoints + kept_offsets, state, mask=kept_mask)
        # Not all gates are loaded ahead by Triton: asked for before the wait for the first tile, they come during it.
        write = gate_row(gates, place, head, WRITE, H, C)
        last = gates + ((place * H + head) * GATE_ROWS + SUM_HIGH) * C + C - 1
        log_keep = tl.load(last) + tl.load(last + C)
        if DELTA:
            read_erased = gate_row(gates, place, head, READ_ERASED, H, C)
            strength = gate_row(gates, place, head, BETA, H, C)
        if STORE_OUTPUT:
            read = gate_row(gates, place, head, READ, H, C)
        b_k = load_operand(k, begin, head, 0, C, BK)
        b_v = load_operand(v, begin, head, column, C, BV)
        keep = tl.exp(log_keep)

        b_state = state.to(b_k.dtype)
        update = b_v.to(tl.float32)
        if DELTA:
            seen = tl.dot(b_k, b_state, input_precision=PRECISION)
            target = update * strength[:, None] - seen * read_erased[:, None]
            # The identity in (I + L)⁻¹ stays outside the product, and with it the rounding of most of the result.
            b_inverse = load_square(inverses, place, head, H, C)
            update = tl.dot(b_inverse, target.to(b_k.dtype), target, input_precision=PRECISION)
        if STORE_STATES:
            slot = (row * group + shift + chunk - first).to(tl.int64)
            offsets, mask = state_offsets(slot * H + head, column, K, V, BK, BV)
            tl.store(states + offsets, b_state, mask=mask)
            tile_offsets, tile_mask = state_offsets(slot * H + head, column, C, V, C, BV)
            tl.store(updates + tile_offsets, update.to(b_k.dtype), mask=tile_mask)
        if STORE_OUTPUT:
            b_q = load_tile(q, begin, head, 0, C, BK)
            b_attention = load_square(attentions, place, head, H, C)
            b_o = tl.dot(b_q, b_state, input_precision=PRECISION) * read[:, None]
            b_o = tl.dot(b_attention, update.to(b_k.dtype), b_o, input_precision=PRECISION)
            store_tokens(o, b_o, begin, end, head, H, V, column, C, BV)
        written = (update * write[:, None]).to(b_k.dtype)
        state = tl.dot(tl.trans(b_k), written, state * keep, input_precision=PRECISION)

    if STORE_OUTPUT:
        offsets, mask = state_offsets(n * H + head, column, K, V, BK, BV)
        if FROM_CHECKPOINTS:
            mask = mask & (high == count)
        tl.store(final + offsets, state, mask=mask)
    if STORE_MAPS:
        offsets, mask = state_offsets((tl.program_id(2) * rows + n) * H + head, column, K, V + K, BK, BV)
        tl.store(final + offsets, state, mask=mask)
