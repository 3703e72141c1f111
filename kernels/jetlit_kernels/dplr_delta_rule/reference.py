"""The diagonal-plus-low-rank delta rule (RWKV7) in plain PyTorch: token by token, and in chunks."""

from __future__ import annotations

from functools import partial

import torch

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.recurrence import (
    FactoredDecay,
    decay_to_end,
    from_chunks,
    pairwise_decay,
    run_padded,
    shifted,
    summed_decay,
    to_chunks,
)

CHUNK = 16
FACTORED_CHUNK = 32


def _recurrent(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    state = k.new_zeros(k.shape[0], *k.shape[2:], v.shape[3]) if state is None else state.to(k.dtype)
    outputs = []
    for t in range(r.shape[1]):
        read = (state * a[:, t, :, :, None]).sum(-2, keepdim=True)
        state = (
            state * w[:, t, :, :, None].exp() + b[:, t, :, :, None] * read + k[:, t, :, :, None] * v[:, t, :, None, :]
        )
        outputs.append((state * r[:, t, :, :, None]).sum(-2))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(v), state


def _chunked(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    state = k.new_zeros(k.shape[0], *k.shape[2:], v.shape[3]) if state is None else state.to(r.dtype)
    chunks = _factored_chunks if FactoredDecay.fits(w, FACTORED_CHUNK) else _paired_chunks
    return chunks(r, w, k, v, a, b, state)


def _factored_chunks(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Use chunks with decays weak enough for matrix products, as RWKV7's always are: several times faster."""
    length = r.shape[1]
    r, w, k, v, a, b = (to_chunks(t, min(FACTORED_CHUNK, length)) for t in (r, w, k, v, a, b))
    decay = FactoredDecay(w, r.dtype)
    r, a = r * decay.up, a * decay.up_before
    k, b = k * decay.down, b * decay.down
    a_k, a_b = (a @ k.mT).tril(-1), (a @ b.mT).tril(-1)
    r_k, r_b = (r @ k.mT).tril(), (r @ b.mT).tril()

    # (I - A_ab) Z = A_ak V + (exp(G) a) S: what every token reads, from the state S at the start of the chunk.
    solved = torch.linalg.solve_triangular(-a_b, torch.cat((a_k @ v, a), -1), upper=False, unitriangular=True)
    z_inside, z_state = solved.split((v.shape[-1], a.shape[-1]), -1)
    inside = r_k @ v + r_b @ z_inside
    r = r + r_b @ z_state
    written = (k.mT @ v + b.mT @ z_inside) * decay.whole
    kept = torch.diag_embed(decay.whole.squeeze(-1)) + b.mT @ z_state * decay.whole

    # unbind: its gradient is one stack, while n indexed reads would give n full tensors of zeros.
    starts = []
    for kept_n, written_n in zip(kept.unbind(2), written.unbind(2)):
        starts.append(state)
        state = kept_n @ state + written_n
    return from_chunks(inside + r @ torch.stack(starts, 2), length), state


def _paired_chunks(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Use chunks with a decay for every pair of tokens: right for any decay."""
    length, dtype = r.shape[1], r.dtype
    size = min(CHUNK, length)
    r, w, k, v, a, b = (to_chunks(t, size) for t in (r, w, k, v, a, b))
    summed = summed_decay(w, -2)

    def pairs(x: torch.Tensor, decay: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the products of x_i, decayed from j to i, with k_j and with b_j: two [..., size, size]."""
        decayed = x[..., :, None, :] * decay
        return (decayed * k[..., None, :, :]).sum(-1), (decayed * b[..., None, :, :]).sum(-1)

    r_k, r_b = pairs(r, pairwise_decay(summed, dtype))
    # Token i reads through `a` the state as it stood before its own decay.
    a_k, a_b = pairs(a, pairwise_decay(summed, dtype, lag=1))

    # (I - A_ab) Z = A_ak V + (exp(G) a) S: what every token reads, from the state S at the start of the chunk.
    right = torch.cat((a_k @ v, a * shifted(summed, 1).to(dtype).exp()), -1)
    solved = torch.linalg.solve_triangular(-a_b, right, upper=False, unitriangular=True)
    z_inside, z_state = solved.split((v.shape[-1], k.shape[-1]), -1)
    inside = r_k @ v + r_b @ z_inside
    r = r * summed.to(dtype).exp() + r_b @ z_state
    to_end = decay_to_end(summed, dtype)
    k, b = k * to_end, b * to_end
    keep = summed[..., -1, :].to(dtype).exp()[..., None]

    outputs = []
    for n in range(r.shape[2]):
        outputs.append(inside[:, :, n] + r[:, :, n] @ state)
        z = z_inside[:, :, n] + z_state[:, :, n] @ state
        state = keep[:, :, n] * state + k[:, :, n].mT @ v[:, :, n] + b[:, :, n].mT @ z
    return from_chunks(torch.stack(outputs, 2), length), state


def _run(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    scale: float = 1.0,
    initial_state: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    chunked: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `jetlit_kernels.dplr_delta_rule` in float64 for float64 inputs, float32 otherwise."""
    dtype = compute_dtype(r, w, k, v, a, b)
    inputs = (r.to(dtype) * scale, *(t.to(dtype) for t in (w, k, v, a, b)))
    recurrence = _chunked if chunked and r.shape[1] > 1 else _recurrent
    o, state = run_padded(recurrence, inputs, initial_state, cu_seqlens)
    return o.to(v.dtype), state


# The definition, token by token.
recurrent_dplr_delta_rule = partial(_run, chunked=False)

# The same numbers with matrix products inside chunks of 16 tokens, differentiable by autograd.
chunk_dplr_delta_rule = partial(_run, chunked=True)
