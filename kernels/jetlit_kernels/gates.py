"""The gates of a JetBlock: write strength and log decay."""

import torch
import torch.nn.functional as F

from jetlit_kernels.dispatch import resolve_backend


def log_decay_and_beta(
    beta_logits: torch.Tensor,
    a: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates of the gated delta rule from their projections.

    g = −exp(A_log) · softplus(a + dt_bias) ≤ 0 and β = sigmoid(beta_logits), both in float32 (float64 stays float64).

    Args:
        beta_logits: [..., H], the output of `b_proj`.
        a: [..., H], the output of `a_proj`.
        A_log: [H].
        dt_bias: [H].
        backend: "auto" (on CUDA, where no gradient is wanted, one Triton kernel; plain PyTorch elsewhere), "triton",
            which has no gradient, or "torch".

    Returns:
        `(g, beta)`, each [..., H].

    Raises:
        ValueError: the backend cannot run here.
    """
    if backend == "auto" and (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        backend = "torch"
    if resolve_backend(backend, a) == "triton":
        from jetlit_kernels.triton import gates as kernels

        return kernels.forward(beta_logits, a, A_log, dt_bias)
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    g = -A_log.to(dtype).exp() * F.softplus(a.to(dtype) + dt_bias.to(dtype))
    return g, beta_logits.to(dtype).sigmoid()
