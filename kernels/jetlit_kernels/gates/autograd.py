"""The gates' Triton kernels with their gradients."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _Gates(torch.autograd.Function):
    """Both gates by the Triton kernels."""

    @staticmethod
    def forward(
        ctx: Any, beta_logits: torch.Tensor, a: torch.Tensor, A_log: torch.Tensor, dt_bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from jetlit_kernels.gates import kernels

        g, beta = kernels.forward(beta_logits, a, A_log, dt_bias)
        ctx.save_for_backward(g, beta, a, A_log, dt_bias)
        return g, beta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_g: torch.Tensor, d_beta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from jetlit_kernels.gates import kernels

        return kernels.backward(d_g, d_beta, *ctx.saved_tensors)


run = _Gates.apply
