"""fla-core's kernels for the operator without Triton kernels of our own, RWKV7's, on CUDA and on request.

They are asked for with JETLIT_FLA=1. By itself an installed fla-core changes nothing: on a fresh machine its autotuning
takes minutes before the first step, and a block selection should start promptly. With Triton's and fla's caches filled
they are the faster choice.
"""

from __future__ import annotations

import importlib.util
import os

import torch


def wants_fla(x: torch.Tensor) -> bool:
    """Whether an operator on `x` [B, T, H, K] goes to fla-core: asked for, installed, on CUDA, more than one token."""
    asked = os.environ.get("JETLIT_FLA") == "1"
    return asked and x.is_cuda and x.shape[1] > 1 and importlib.util.find_spec("fla") is not None


def fla_dplr_delta_rule(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`jetlit_kernels.dplr_delta_rule` by fla-core's chunked kernels; returns o and the state."""
    from fla.ops.generalized_delta_rule import chunk_dplr_delta_rule

    return chunk_dplr_delta_rule(
        q=r,
        k=k.to(r.dtype),
        v=v.to(r.dtype),
        a=a.to(r.dtype),
        b=b.to(r.dtype),
        gk=w,
        scale=scale,
        initial_state=initial_state,
        output_final_state=True,
        cu_seqlens=None if cu_seqlens is None else cu_seqlens.long(),
    )
