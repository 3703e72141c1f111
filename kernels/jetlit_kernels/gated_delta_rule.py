"""The gated delta rule: the recurrence of JetBlock, Gated DeltaNet and, without decay, DeltaNet."""

from __future__ import annotations

import torch

from jetlit_kernels.dispatch import announce, resolve_backend
from jetlit_kernels.gated_delta_rule_op import gated_delta_rule_op
from jetlit_kernels.reference.gated_delta_rule import chunk_gated_delta_rule
from jetlit_kernels.validation import check_packing, check_sequences, check_shape

LARGEST_KEY = 256  # the widest K of the Triton kernels


def gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None,
    beta: torch.Tensor,
    *,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    use_qk_l2norm: bool = True,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Runs the gated delta rule over sequences.

    For every head and token t, with the state S [K, V] (Yang et al., arXiv:2412.06464, equation 10, as JetBlock uses
    it):

        S ← exp(g_t) S;   S ← S + k_t ⊗ β_t (v_t - Sᵀ k_t);   o_t = scale · Sᵀ q_t

    Args:
        q: [B, T, H, K] queries; float32, bfloat16 or float16 (plain PyTorch also float64).
        k: [B, T, H, K] keys.
        v: [B, T, H, V] values.
        g: [B, T, H] log decays, at most 0; None for no decay (DeltaNet).
        beta: [B, T, H] strengths of the writes, between 0 and 1.
        scale: factor of the output; K ** -0.5 by default.
        initial_state: [N, H, K, V] states before the first token (N = B, or the number of packed sequences); zeros
            by default.
        output_final_state: also return the states after the last token.
        cu_seqlens: [N + 1] integers, the bounds of N sequences packed into one row (then B is 1).
        use_qk_l2norm: normalise q and k over K first, as x · rsqrt(Σ x² + 1e-6).
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        o: [B, T, H, V] in the dtype of v.
        final_state: [N, H, K, V] in float32 (float64 for float64 inputs), or None.

    Raises:
        ValueError: shapes disagree, or the backend cannot run (the message says why).
    """
    check_sequences(q, k, v)
    for name, gate in (("g", g), ("beta", beta)):
        if gate is not None:
            check_shape(name, gate, tuple(q.shape[:3]))
    check_packing(q, v, initial_state, cu_seqlens)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if _runs_on_triton(q, backend):
        o, state = _triton(q, k, v, g, beta, scale, initial_state, cu_seqlens, use_qk_l2norm)
    else:
        o, state = chunk_gated_delta_rule(
            q,
            k,
            v,
            g,
            beta,
            scale=scale,
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            use_qk_l2norm=use_qk_l2norm,
        )
    return o, state if output_final_state else None


def _runs_on_triton(q: torch.Tensor, backend: str) -> bool:
    if resolve_backend(backend, q) == "torch":
        return False
    if q.shape[-1] <= LARGEST_KEY and q.shape[1] > 0:
        return True
    reason = f"the Triton kernels hold keys of 1 to {LARGEST_KEY} columns and at least one token, not {tuple(q.shape)}"
    if backend == "triton":
        raise ValueError(f'backend="triton" cannot run: {reason}; pass backend="torch".')
    announce("gated_delta_rule", f"plain PyTorch, since {reason}")
    return False


def _triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None,
    beta: torch.Tensor,
    scale: float,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    use_qk_l2norm: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    result = v.dtype
    # The kernels take one type for q, k and v. float16 lacks the range of a state, so it is computed in float32.
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    g = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device) if g is None else g
    trained = (t for t in (q, k, v, g, beta, initial_state) if t is not None)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in trained)
    o, state, _ = gated_delta_rule_op(q, k, v, g, beta, initial_state, cu_seqlens, scale, use_qk_l2norm, save)
    return o.to(result), state
