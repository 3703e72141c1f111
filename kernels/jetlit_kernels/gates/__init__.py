"""The gates of a JetBlock: write strength and log decay."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

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
        backend: "auto" (on CUDA one Triton kernel in each direction; plain PyTorch elsewhere and for the compiler,
            which makes as much of it), "triton" or "torch".

    Returns:
        `(g, beta)`, each [..., H].

    Raises:
        ValueError: the backend cannot run here.
    """
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    if resolve_backend(backend, a) == "triton":
        return _Gates.apply(beta_logits, a, A_log, dt_bias)
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    g = -A_log.to(dtype).exp() * F.softplus(a.to(dtype) + dt_bias.to(dtype))
    return g, beta_logits.to(dtype).sigmoid()


class _Gates(torch.autograd.Function):
    """Both gates by the Triton kernels."""

    @staticmethod
    def forward(
        ctx: Any, beta_logits: torch.Tensor, a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from jetlit_kernels.gates import kernels as kernels

        g, beta = kernels.forward(beta_logits, a, A_log, dt_bias)
        ctx.save_for_backward(g, beta, a, A_log, dt_bias)
        return g, beta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_g: torch.Tensor, d_beta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from jetlit_kernels.gates import kernels as kernels

        return kernels.backward(d_g, d_beta, *ctx.saved_tensors)
