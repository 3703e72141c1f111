"""The gates of a JetBlock: write strength and log decay."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.gates import reference
from jetlit_kernels.gates.autograd import run


def log_decay_and_beta(
    beta_logits: torch.Tensor,
    a: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gates of the gated delta rule, computed from their projections.

    g = −exp(A_log) · softplus(a + dt_bias) ≤ 0 and β = sigmoid(beta_logits), both in float32 (float64 stays float64).

    Args:
        beta_logits: [..., H], the output of `b_proj`.
        a: [..., H], the output of `a_proj`.
        A_log: [H].
        dt_bias: [H].
        backend: "auto" (Triton on CUDA; plain PyTorch elsewhere and under a compiler, which fuses it just as well),
            "triton" or "torch".

    Returns:
        `(g, beta)`, each [..., H].

    Raises:
        ValueError: the backend cannot run here.
    """
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    if resolve_backend(backend, a) == "triton":
        return run(beta_logits, a, A_log, dt_bias)
    return reference.log_decay_and_beta(beta_logits, a, A_log, dt_bias)
