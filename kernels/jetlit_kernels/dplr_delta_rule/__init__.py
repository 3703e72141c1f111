"""The generalized delta rule with a diagonal-plus-low-rank transition: the recurrence of RWKV7."""

from __future__ import annotations

import torch

from jetlit_kernels.checks import check_packing, check_sequences, check_shape
from jetlit_kernels.dispatch import announce, resolve_backend
from jetlit_kernels.dplr_delta_rule.fla import fla_dplr_delta_rule, wants_fla
from jetlit_kernels.dplr_delta_rule.reference import chunk_dplr_delta_rule


def dplr_delta_rule(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    scale: float = 1.0,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run the generalized delta rule over sequences.

    For every head and token t, with the state S [K, V]:

        S ← diag(exp(w_t)) S + b_t ⊗ (Sᵀ a_t) + k_t ⊗ v_t;   o_t = scale · Sᵀ r_t

    where Sᵀ a_t reads the state as the previous token left it, before its decay. RWKV-7 (Peng et al.,
    arXiv:2503.14456, equation 16) writes the transposed state, S ← S (diag(exp(w_t)) - κ̂_tᵀ (α_t ⊙ κ̂_t)) + v_tᵀ k̃_t:
    pass a = -κ̂ and b = κ̂ ⊙ α, with κ̂ of unit length and α the in-context learning rate.

    Args:
        r: [B, T, H, K] receptances (queries); float32, bfloat16, float16 or float64.
        w: [B, T, H, K] log decays, at most 0.
        k: [B, T, H, K] keys.
        v: [B, T, H, V] values.
        a: [B, T, H, K] what is read out of the state at each token.
        b: [B, T, H, K] where that is written back.
        scale: factor of the output.
        initial_state: [N, H, K, V] states before the first token (N = B, or the number of packed sequences); zeros
            by default.
        output_final_state: also return the states after the last token.
        cu_seqlens: [N + 1] integers, the bounds of N sequences packed into one row (then B is 1).
        backend: "auto" or "torch"; this operator has no Triton kernels of its own.

    Returns:
        o: [B, T, H, V] in the dtype of v.
        final_state: [N, H, K, V] in float32 (float64 for float64 inputs), or None.

    Raises:
        ValueError: shapes disagree, or the backend cannot run (the message says why).
    """
    check_sequences(r, k, v)
    for name, tensor in (("w", w), ("a", a), ("b", b)):
        check_shape(name, tensor, tuple(r.shape))
    check_packing(r, v, initial_state, cu_seqlens)
    if backend == "triton":
        raise ValueError('dplr_delta_rule has no Triton kernels; pass backend="torch" or "auto".')
    resolve_backend(backend, r)
    if backend == "auto" and wants_fla(r):
        announce("dplr_delta_rule", "fla-core")
        o, state = fla_dplr_delta_rule(r, w, k, v, a, b, scale, initial_state, cu_seqlens)
        return o.to(v.dtype), state if output_final_state else None
    announce("dplr_delta_rule", f"plain PyTorch on {r.device.type}")
    o, state = chunk_dplr_delta_rule(r, w, k, v, a, b, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens)
    return o, state if output_final_state else None
