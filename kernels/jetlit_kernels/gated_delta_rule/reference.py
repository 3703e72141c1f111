"""The gated delta rule in plain PyTorch: token by token, and in chunks."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from jetlit_kernels.dtypes import compute_dtype
from jetlit_kernels.recurrence import (
    decay_to_end,
    from_chunks,
    l2_normalize,
    pairwise_decay,
    run_padded,
    summed_decay,
    to_chunks,
)

CHUNK = 32


def _zero_state(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])


def _recurrent(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    state = _zero_state(k, v) if state is None else state.to(k.dtype)
    outputs = []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        kt = k[:, t, :, :, None]
        seen = (state * kt).sum(-2)
        update = beta[:, t, :, None] * (v[:, t] - seen)
        state = state + kt * update[:, :, None, :]
        outputs.append((state * q[:, t, :, :, None]).sum(-2))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(v), state


def _chunked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    length, dtype = q.shape[1], q.dtype
    state = _zero_state(k, v) if state is None else state.to(dtype)
    size = min(CHUNK, length)
    q, k, v, g, beta = (to_chunks(t, size) for t in (q, k, v, g, beta))
    beta = beta[..., None]
    summed = summed_decay(g[..., None], -2)
    between = pairwise_decay(summed, dtype).squeeze(-1)
    from_start = summed.to(dtype).exp()

    # (I + L) U = β (V - exp(G) K S): the corrections U of a chunk from the state S at its start (WY form).
    lower = (k @ k.mT * between * beta).tril(-1)
    right = torch.cat((v, k * from_start), -1) * beta
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    u, w = solved.split((v.shape[-1], k.shape[-1]), -1)
    attention = q @ k.mT * between
    q, k = q * from_start, k * decay_to_end(summed, dtype)
    keep = from_start[..., -1:, :]

    # unbind: its gradient is one stack, while n indexed reads would give n full tensors of zeros.
    starts, updates = [], []
    for keep_n, k_n, u_n, w_n in zip(*(t.unbind(2) for t in (keep, k, u, w))):
        starts.append(state)
        updates.append(u_n - w_n @ state)
        state = keep_n * state + k_n.mT @ updates[-1]
    o = q @ torch.stack(starts, 2) + attention @ torch.stack(updates, 2)
    return from_chunks(o, length), state


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None,
    beta: torch.Tensor,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    qk_activation: str | None = None,
    use_qk_l2norm: bool = True,
    *,
    chunked: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `jetlit_kernels.gated_delta_rule` in float64 for float64 inputs, float32 otherwise."""
    result, dtype = v.dtype, compute_dtype(q, k, v)
    q, k, v, beta = (t.to(dtype) for t in (q, k, v, beta))
    g = torch.zeros_like(beta) if g is None else g.to(dtype)
    if qk_activation == "silu":
        q, k = F.silu(q), F.silu(k)
    if use_qk_l2norm:
        q, k = l2_normalize(q), l2_normalize(k)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    recurrence = _chunked if chunked and q.shape[1] > 1 else _recurrent
    o, state = run_padded(recurrence, (q, k, v, g, beta), initial_state, cu_seqlens)
    return o.to(result), state


# The definition, token by token: the oracle of the tests, and the step of decoding.
recurrent_gated_delta_rule = partial(_run, chunked=False)

# The same numbers with matrix products inside chunks of 32 tokens, differentiable by autograd: the form of Yang et al.,
# "Gated Delta Networks" (arXiv:2412.06464), section 3.3. Every exponential has an argument of at most zero.
chunk_gated_delta_rule = partial(_run, chunked=True)
