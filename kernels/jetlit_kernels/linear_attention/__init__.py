"""Linear attention: the recurrence of RetNet and Mamba2 (scalar decay), of GLA (vector decay), or without decay."""

from __future__ import annotations

import torch

from jetlit_kernels.checks import check_packing, check_sequences
from jetlit_kernels.dispatch import runs_on_triton
from jetlit_kernels.dtypes import in_one_dtype
from jetlit_kernels.gated_delta_rule.autograd import run as run_gated_delta_rule
from jetlit_kernels.linear_attention.autograd import gated_linear_attention
from jetlit_kernels.linear_attention.reference import chunk_linear_attention


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run linear attention with an optional decay over sequences.

    For every head and token t, with the state S [K, V]:

        S ← exp(g_t) S + k_t ⊗ v_t;   o_t = scale · Sᵀ q_t

    where a vector g_t scales the rows of S (Yang et al., "Gated Linear Attention", arXiv:2312.06635, equation 3).

    Args:
        q: [B, T, H, K] queries; float32, bfloat16 or float16 (plain PyTorch also float64).
        k: [B, T, H, K] keys.
        v: [B, T, H, V] values.
        g: log decays, at most 0: [B, T, H] for one decay a head, [B, T, H, K] for one a row of the state, or None.
        scale: factor of the output; K ** -0.5 by default.
        initial_state: [N, H, K, V] states before the first token (N = B, or the number of packed sequences); zeros
            by default.
        output_final_state: also return the states after the last token.
        cu_seqlens: [N + 1] integers, the bounds of N sequences packed into one row (then B is 1).
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        o: [B, T, H, V] in the dtype of v.
        final_state: [N, H, K, V] in float32 (float64 for float64 inputs), or None.

    Raises:
        ValueError: shapes disagree, Triton is given more than 65,535 sequences times heads, or the backend cannot run
            (the message says why).
    """
    check_sequences(q, k, v)
    if g is not None and tuple(g.shape) not in (tuple(q.shape[:3]), tuple(q.shape)):
        raise ValueError(f"g must be {tuple(q.shape[:3])} or {tuple(q.shape)}, or None; got {tuple(g.shape)}.")
    check_packing(q, v, initial_state, cu_seqlens)
    if runs_on_triton("linear_attention", q, backend):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        if g is not None and g.dim() == 4:
            o, state = gated_linear_attention(*in_one_dtype(q, k, v), g, initial_state, cu_seqlens, scale)
        else:
            o, state = run_gated_delta_rule(q, k, v, g, None, initial_state, cu_seqlens, scale)
    else:
        o, state = chunk_linear_attention(q, k, v, g, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens)
    return o.to(v.dtype), state if output_final_state else None
