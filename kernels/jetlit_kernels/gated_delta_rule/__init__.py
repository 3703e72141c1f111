"""The gated delta rule: the recurrence of JetBlock, Gated DeltaNet and, without decay, DeltaNet."""

from __future__ import annotations

import torch

from jetlit_kernels.checks import check_packing, check_sequences, check_shape
from jetlit_kernels.dispatch import runs_on_triton
from jetlit_kernels.gated_delta_rule.autograd import run
from jetlit_kernels.gated_delta_rule.reference import chunk_gated_delta_rule


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
    qk_activation: str | None = None,
    use_qk_l2norm: bool = True,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run the gated delta rule over sequences.

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
        qk_activation: "silu" (of q and k, before their norm) or None.
        use_qk_l2norm: normalize q and k over K first, as x · rsqrt(Σ x² + 1e-6).
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        o: [B, T, H, V] in the dtype of v.
        final_state: [N, H, K, V] in float32 (float64 for float64 inputs), or None.

    Raises:
        ValueError: shapes disagree, the activation is unknown, Triton is given more than 65,535 sequences times heads,
            or the backend cannot run (the message says why).
    """
    check_sequences(q, k, v)
    for name, gate in (("g", g), ("beta", beta)):
        if gate is not None:
            check_shape(name, gate, tuple(q.shape[:3]))
    if qk_activation not in ("silu", None):
        raise ValueError(f'gated_delta_rule knows qk_activation "silu" or None, not {qk_activation!r}.')
    check_packing(q, v, initial_state, cu_seqlens)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if runs_on_triton("gated_delta_rule", q, backend):
        silu = qk_activation == "silu"
        o, state = run(q, k, v, g, beta, initial_state, cu_seqlens, scale, l2norm=use_qk_l2norm, silu=silu)
    else:
        options = (scale, initial_state, cu_seqlens, qk_activation, use_qk_l2norm)
        o, state = chunk_gated_delta_rule(q, k, v, g, beta, *options)
    return o, state if output_final_state else None
