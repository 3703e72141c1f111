"""Linear attention with scalar, vector or no decay in plain PyTorch: token by token, and in chunks."""

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
    summed_decay,
    to_chunks,
)

CHUNK = 32
# A vector decay needs [chunk, chunk, K] factors inside a chunk, so its chunks are short.
VECTOR_CHUNK = 16
FACTORED_CHUNK = 32


def _recurrent(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    state = k.new_zeros(k.shape[0], *k.shape[2:], v.shape[3]) if state is None else state.to(k.dtype)
    g = g if g.dim() == 4 else g[..., None]
    outputs = []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, :, None].exp() + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((state * q[:, t, :, :, None]).sum(-2))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(v), state


def _chunked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    state = k.new_zeros(k.shape[0], *k.shape[2:], v.shape[3]) if state is None else state.to(q.dtype)
    if g.dim() == 4 and FactoredDecay.fits(g, FACTORED_CHUNK):
        return _factored_chunks(q, k, v, g, state)
    return _paired_chunks(q, k, v, g, state)


def _paired_chunks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Use chunks with a decay for every pair of tokens: right for any decay."""
    length, dtype = q.shape[1], q.dtype
    vector = g.dim() == 4
    size = min(VECTOR_CHUNK if vector else CHUNK, length)
    q, k, v, g = (to_chunks(t, size) for t in (q, k, v, g))
    summed = summed_decay(g if vector else g[..., None], -2)
    between = pairwise_decay(summed, dtype)
    if vector:
        attention = (q[..., :, None, :] * between * k[..., None, :, :]).sum(-1)
    else:
        attention = q @ k.mT * between.squeeze(-1)
    q = q * summed.to(dtype).exp()
    k = k * decay_to_end(summed, dtype)
    keep = summed[..., -1, :].to(dtype).exp()[..., None]
    inside = attention @ v

    return _across_chunks(inside, q, keep, k.mT @ v, state, length)


def _factored_chunks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Use chunks with vector decays weak enough for matrix products: several times faster."""
    length = q.shape[1]
    q, k, v, g = (to_chunks(t, min(FACTORED_CHUNK, length)) for t in (q, k, v, g))
    decay = FactoredDecay(g, q.dtype)
    q, k = q * decay.up, k * decay.down
    inside = (q @ k.mT).tril() @ v
    return _across_chunks(inside, q, decay.whole, k.mT @ v * decay.whole, state, length)


def _across_chunks(
    inside: torch.Tensor,
    q: torch.Tensor,
    keep: torch.Tensor,
    written: torch.Tensor,
    state: torch.Tensor,
    length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry the state from chunk to chunk: S ← keep S + written; add what the queries read of it.

    Args:
        inside: [B, H, n, C, V], what each chunk reads of itself.
        q: [B, H, n, C, K], scaled queries, decayed from the start of their chunk.
        keep: [B, H, n, K or 1, 1].
        written: [B, H, n, K, V].
        state: [B, H, K, V].
        length: T.
    """
    # unbind: its gradient is one stack, while n indexed reads would give n full tensors of zeros.
    starts = []
    for keep_n, written_n in zip(keep.unbind(2), written.unbind(2)):
        starts.append(state)
        state = keep_n * state + written_n
    return from_chunks(inside + q @ torch.stack(starts, 2), length), state


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    chunked: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `jetlit_kernels.linear_attention` in float64 for float64 inputs, float32 otherwise."""
    result, dtype = v.dtype, compute_dtype(q, k, v)
    q, k, v = (t.to(dtype) for t in (q, k, v))
    g = q.new_zeros(q.shape[:3]) if g is None else g.to(dtype)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    recurrence = _chunked if chunked and q.shape[1] > 1 else _recurrent
    o, state = run_padded(recurrence, (q, k, v, g), initial_state, cu_seqlens)
    return o.to(result), state


# The definition, token by token.
recurrent_linear_attention = partial(_run, chunked=False)

# The same numbers with matrix products inside chunks, differentiable by autograd. Inside a chunk the decay between two
# tokens is exp of a difference that is never positive, so no decay is too strong for it.
chunk_linear_attention = partial(_run, chunked=True)
