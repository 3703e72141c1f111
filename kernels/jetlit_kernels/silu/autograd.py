"""SiLU's Triton kernels with their gradient."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _SiLU(torch.autograd.Function):
    """SiLU by the Triton kernels."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        from jetlit_kernels.silu import kernels

        ctx.save_for_backward(x)
        return kernels.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: torch.Tensor) -> torch.Tensor:
        from jetlit_kernels.silu import kernels

        return kernels.backward(d_out, *ctx.saved_tensors)


run = _SiLU.apply
