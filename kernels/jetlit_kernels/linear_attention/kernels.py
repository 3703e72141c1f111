"""Triton kernels of linear attention with vector decays (GLA), forward and backward.

With G the running sum of a chunk's log decays [C, K], S the state at its start, ⊙ the product by elements:

    P_ij = scale Σ q_i ⊙ k_j ⊙ exp(G_i - G_j), i >= j        O = (scale Q ⊙ exp(G)) S + P V
    S ← exp(G_C) S + (K ⊙ exp(G_C - G))ᵀ V

P is no product of a matrix of i and one of j: exp(-G_j) overflows. But two tokens i > j share a block of 2s tokens,
s = 1, 2, 4, .. C / 2, in whose halves they lie on either side; with m the last token of the left half,

    exp(G_i - G_j) = exp(G_i - G_m) exp(G_m - G_j),

and no exponent is positive. So P is a sum over log2(C) *levels* of products, each cut to its blocks: of Y Yᵀ, where a
row of Y is q_i ⊙ exp(G_i - G_m) in a right half and k_j ⊙ exp(G_m - G_j) in a left one. i and j meet at the level of
the highest bit in which their numbers differ.

The backward pass mirrors this. dS' is the gradient of the state after a chunk:

    dS = exp(G_C) dS' + (scale Q ⊙ exp(G))ᵀ dO              dV = Pᵀ dO + (K ⊙ exp(G_C - G)) dS'

of the same form as S and O, so the same kernels compute them. At every level, with Z the symmetric matrix of
dP = scale dO Vᵀ cut to the level's blocks, the rows of Z Y are dq (right halves) and dk (left halves) before their
decay. The gradient of g_t sums q ⊙ dq or k ⊙ dk over the tokens whose way to m crosses t: only over what the decay at
t has scaled, so that nothing cancels, however strong the decays.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jetlit_kernels.chunks import chunk_of_slot, span_of_sequence
from jetlit_kernels.tiles import load_tokens, store_tokens

# exp of it is 0 in float32: a stronger decay changes no result, and this bound keeps the digits of the sums.
STRONGEST = tl.constexpr(-128.0)


@triton.jit
def tile_offsets(index, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Return offsets and mask of the block [BR, BC] at (row, column) of matrix `index` in [.., ROWS, COLUMNS]."""
    r = row + tl.arange(0, BR)
    c = column + tl.arange(0, BC)
    offsets = index.to(tl.int64) * ROWS * COLUMNS + r[:, None] * COLUMNS + c[None, :]
    return offsets, (r < ROWS)[:, None] & (c < COLUMNS)[None, :]


@triton.jit
def load_tile(x, index, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Load the block [BR, BC] at (row, column) of the matrix number `index` in x [.., ROWS, COLUMNS]."""
    offsets, mask = tile_offsets(index, row, column, ROWS, COLUMNS, BR, BC)
    return tl.load(x + offsets, mask=mask, other=0.0)


@triton.jit
def load_total(sums, index, column, exists, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr):
    """Load G_C [BK] of a chunk from `column` on, zeros where there is no such chunk."""
    columns = column + tl.arange(0, BK)
    pointers = sums + (index.to(tl.int64) * C + C - 1) * K + columns
    return tl.load(pointers, mask=(columns < K) & exists, other=0.0)


@triton.jit
def in_right_half(token, level):
    """Return whether a token of a chunk lies in the right half of its block of 2 · 2^level tokens."""
    return (token >> level) % 2 == 1


@triton.jit
def decay_to_middle(sums, b_sums, index, column, level, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr):
    """Return the decay [C, BK] between each token and the last of the left half of its block of 2 · 2^level tokens."""
    token = tl.arange(0, C)
    columns = column + tl.arange(0, BK)
    middle = ((token >> level) | 1) * (1 << level) - 1
    pointers = sums + index.to(tl.int64) * C * K + middle[:, None] * K + columns[None, :]
    difference = (b_sums - tl.load(pointers, mask=(columns < K)[None, :], other=0.0)).to(tl.float32)
    return tl.exp(tl.where(in_right_half(token, level)[:, None], difference, -difference))


@triton.jit
def meet_at(level, C: tl.constexpr):
    """Return whether two tokens lie in different halves of one block of 2 · 2^level tokens: [C, C]."""
    half = tl.arange(0, C) >> level
    return (half ^ 1)[:, None] == half[None, :]


@triton.jit
def crosses(level, C: tl.constexpr):
    """Return [C, C], 1 at [t, i] where the decay of t scales the way from i to the middle of its block, else 0.

    Of token i in a right half that is t from the half's start to i, in a left one from i + 1 to the half's end.
    """
    token = tl.arange(0, C)
    start = (token >> level) << level
    right = in_right_half(token, level)
    low = tl.where(right, start, token + 1)
    high = tl.where(right, token + 1, start + (1 << level))
    return tl.where((token[:, None] >= low[None, :]) & (token[:, None] < high[None, :]), 1.0, 0.0)


@triton.jit
def decay_kernel(
    q, k, g, sums, readers, writers, scale, length, chunks, sequences, bounds, base, owners, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write G, scale Q ⊙ exp(G) and K ⊙ exp(G_C - G), each [slots, H, C, K]. Grid: (slots, H, blocks of K)."""
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.program_id(2) * BK
    real, begin, end = chunk_of_slot(
        slot, 0, chunks, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    log_decay = load_tokens(g, begin, end, head, H, K, column, C, BK).to(sums.dtype.element_ty)
    log_decay = tl.maximum(log_decay, STRONGEST)
    summed = tl.cumsum(log_decay, axis=0)
    to_end = tl.sum(log_decay, axis=0)[None, :] - summed
    b_q = load_tokens(q, begin, end, head, H, K, column, C, BK).to(tl.float32)
    b_k = load_tokens(k, begin, end, head, H, K, column, C, BK).to(tl.float32)
    offsets, mask = tile_offsets(slot * H + head, 0, column, C, K, C, BK)
    tl.store(sums + offsets, summed, mask=mask)
    reader = b_q * tl.exp(summed.to(tl.float32)) * scale
    tl.store(readers + offsets, reader.to(readers.dtype.element_ty), mask=mask)
    writer = b_k * tl.exp(to_end.to(tl.float32))
    tl.store(writers + offsets, writer.to(writers.dtype.element_ty), mask=mask)


@triton.jit
def attention_kernel(
    q, k, sums, attentions, scale, length, chunks, sequences, bounds, base, owners, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write P [slots, H, C, C] of one chunk and head. Grid: (slots, H)."""
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    real, begin, end = chunk_of_slot(
        slot, 0, chunks, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    index = slot * H + head
    c = tl.arange(0, C)
    attention = tl.zeros((C, C), tl.float32)
    itself = tl.zeros((C,), tl.float32)
    for column in range(0, K, BK):
        b_q = load_tokens(q, begin, end, head, H, K, column, C, BK)
        b_k = load_tokens(k, begin, end, head, H, K, column, C, BK)
        b_sums = load_tile(sums, index, 0, column, C, K, C, BK)
        itself += tl.sum(b_q.to(tl.float32) * b_k.to(tl.float32), axis=1)
        for level in range(LEVELS):
            decay = decay_to_middle(sums, b_sums, index, column, level, K, C, BK)
            either = tl.where(in_right_half(c, level)[:, None], b_q, b_k)
            y = (either.to(tl.float32) * decay).to(b_q.dtype)
            attention += tl.where(meet_at(level, C), tl.dot(y, tl.trans(y), input_precision=PRECISION), 0.0)
    attention = tl.where(c[:, None] > c[None, :], attention, 0.0)
    attention += tl.where(c[:, None] == c[None, :], itself[:, None], 0.0)
    offsets, _ = tile_offsets(index, 0, 0, C, C, C, C)
    tl.store(attentions + offsets, (attention * scale).to(attentions.dtype.element_ty))


@triton.jit
def chunk_of_step(step, count, REVERSE: tl.constexpr):
    """Return the chunk of a sequence of `count` chunks that a scan treats at a step."""
    return count - 1 - step if REVERSE else step


@triton.jit
def scan_kernel(
    writers, values, sums, initial, final, states, length, chunks, sequences, bounds, base, owners, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Carry S ← exp(G_C) S + writersᵀ values through a sequence. Grid: (blocks of V, N · H).

    Writes the state that each chunk meets [slots, H, K, V] and the last one [N, H, K, V]. With REVERSE it walks the
    chunks backwards: from readers and dO come the states' gradients, and that of the initial state.
    """
    column = tl.program_id(0) * BV
    n = tl.program_id(1) // H
    head = tl.program_id(1) % H
    start, end, count, shift, row, _, _ = span_of_sequence(
        n, 0, chunks, length, chunks, bounds, base, SIZE=C, PACKED=PACKED
    )
    ends, ends_mask = tile_offsets(n * H + head, 0, column, K, V, BK, BV)
    state = tl.zeros((BK, BV), tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + ends, mask=ends_mask, other=0.0).to(tl.float32)
    base_slot = row * chunks + shift
    index = (base_slot + chunk_of_step(0, count, REVERSE)) * H + head
    total = load_total(sums, index, 0, count > 0, K, C, BK)
    for step in range(0, count):
        # The next chunk's total is loaded a step ahead: nothing else would hide its latency.
        index = (base_slot + chunk_of_step(step + 1, count, REVERSE)) * H + head
        next_total = load_total(sums, index, 0, step + 1 < count, K, C, BK)
        chunk = chunk_of_step(step, count, REVERSE)
        index = (base_slot + chunk) * H + head
        b_writers = load_tile(writers, index, 0, 0, C, K, C, BK)
        b_values = load_tokens(values, start + chunk * C, end, head, H, V, column, C, BV)
        offsets, mask = tile_offsets(index, 0, column, K, V, BK, BV)
        tl.store(states + offsets, state.to(states.dtype.element_ty), mask=mask)
        kept = state * tl.exp(total.to(tl.float32))[:, None]
        state = tl.dot(tl.trans(b_writers), b_values, kept, input_precision=PRECISION)
        total = next_total
    tl.store(final + ends, state, mask=ends_mask)


@triton.jit
def read_kernel(
    readers, states, attentions, values, o, length, chunks, sequences, bounds, base, owners, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TRANSPOSED: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write O = readers · S + P · values, or with TRANSPOSED Pᵀ, of one chunk. Grid: (slots, H, blocks of V)."""
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.program_id(2) * BV
    real, begin, end = chunk_of_slot(
        slot, 0, chunks, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    index = slot * H + head
    c = tl.arange(0, C)
    if TRANSPOSED:
        b_attention = tl.load(attentions + index * C * C + c[None, :] * C + c[:, None])
    else:
        b_attention = tl.load(attentions + index * C * C + c[:, None] * C + c[None, :])
    b_values = load_tokens(values, begin, end, head, H, V, column, C, BV)
    b_o = tl.dot(b_attention, b_values, input_precision=PRECISION)
    for row in range(0, K, BK):
        b_readers = load_tile(readers, index, 0, row, C, K, C, BK)
        b_state = load_tile(states, index, row, column, K, V, BK, BV)
        b_o = tl.dot(b_readers, b_state, b_o, input_precision=PRECISION)
    store_tokens(o, b_o, begin, end, head, H, V, column, C, BV)


@triton.jit
def gradient_kernel(
    q, k, v, sums, states, d_states, do, dq, dk, dg, scale, length, chunks, sequences, bounds, base, owners, H,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write dq, dk and dg of a chunk, head and block of K. Grid: (slots, H, blocks of K)."""
    slot = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.program_id(2) * BK
    real, begin, end = chunk_of_slot(
        slot, 0, chunks, length, chunks, sequences, bounds, base, owners, SIZE=C, PACKED=PACKED
    )
    if not real:
        return
    index = slot * H + head
    c = tl.arange(0, C)

    # Both triangles as products of loaded tiles: no result of a product is ever transposed.
    lower = tl.zeros((C, C), tl.float32)
    upper = tl.zeros((C, C), tl.float32)
    b_dq = tl.zeros((C, BK), tl.float32)
    b_dk = tl.zeros((C, BK), tl.float32)
    overlap = tl.zeros((BK,), tl.float32)
    for value in range(0, V, BV):
        b_do = load_tokens(do, begin, end, head, H, V, value, C, BV)
        b_v = load_tokens(v, begin, end, head, H, V, value, C, BV)
        b_state = load_tile(states, index, column, value, K, V, BK, BV)
        b_d_state = load_tile(d_states, index, column, value, K, V, BK, BV)
        lower = tl.dot(b_do, tl.trans(b_v), lower, input_precision=PRECISION)
        upper = tl.dot(b_v, tl.trans(b_do), upper, input_precision=PRECISION)
        b_dq = tl.dot(b_do, tl.trans(b_state), b_dq, input_precision=PRECISION)
        b_dk = tl.dot(b_v, tl.trans(b_d_state), b_dk, input_precision=PRECISION)
        overlap += tl.sum(b_state.to(tl.float32) * b_d_state.to(tl.float32), axis=1)
    d_attention = tl.where(c[:, None] >= c[None, :], lower, upper) * scale
    itself = tl.sum(tl.where(c[:, None] == c[None, :], d_attention, 0.0), axis=1)
    d_attention = d_attention.to(q.dtype.element_ty)

    b_q = load_tokens(q, begin, end, head, H, K, column, C, BK)
    b_k = load_tokens(k, begin, end, head, H, K, column, C, BK)
    b_sums = load_tile(sums, index, 0, column, C, K, C, BK)
    total = load_total(sums, index, column, True, K, C, BK)
    b_dq *= tl.exp(b_sums.to(tl.float32)) * scale
    b_dk *= tl.exp((total[None, :] - b_sums).to(tl.float32))
    # The state's share: the decay at t scales what tokens i >= t read of it and what tokens i < t write into it.
    reads = c[:, None] <= c[None, :]
    b_dg = tl.zeros((C, BK), tl.float32) + (overlap * tl.exp(total.to(tl.float32)))[None, :]
    q_dq = (b_q.to(tl.float32) * b_dq).to(b_q.dtype)
    k_dk = (b_k.to(tl.float32) * b_dk).to(b_q.dtype)
    b_dg = tl.dot(reads.to(b_q.dtype), q_dq, b_dg, input_precision=PRECISION)
    b_dg = tl.dot((~reads).to(b_q.dtype), k_dk, b_dg, input_precision=PRECISION)

    b_dq += b_k.to(tl.float32) * itself[:, None]
    b_dk += b_q.to(tl.float32) * itself[:, None]
    for level in range(LEVELS):
        right = in_right_half(c, level)
        decay = decay_to_middle(sums, b_sums, index, column, level, K, C, BK)
        either = tl.where(right[:, None], b_q, b_k).to(tl.float32)
        z = tl.where(meet_at(level, C), d_attention, 0.0)
        d_either = tl.dot(z, (either * decay).to(b_q.dtype), input_precision=PRECISION) * decay
        b_dq += tl.where(right[:, None], d_either, 0.0)
        b_dk += tl.where(right[:, None], 0.0, d_either)
        q_dq_or_k_dk = (either * d_either).to(b_q.dtype)
        b_dg = tl.dot(crosses(level, C).to(b_q.dtype), q_dq_or_k_dk, b_dg, input_precision=PRECISION)
    store_tokens(dq, b_dq, begin, end, head, H, K, column, C, BK)
    store_tokens(dk, b_dk, begin, end, head, H, K, column, C, BK)
    store_tokens(dg, b_dg, begin, end, head, H, K, column, C, BK)
