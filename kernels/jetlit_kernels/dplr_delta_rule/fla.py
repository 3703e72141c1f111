"""fla-core's kernels for RWKV7's recurrence, which has no Triton kernels here.

They run on CUDA if JETLIT_FLA=1 is set. An installed fla-core alone changes nothing: its autotuning takes minutes
before the first step on a fresh machine. With Triton's and fla's caches filled it is the faster choice.
"""

from __future__ import annotations

import importlib.util
import os

import torch


def wants_fla(x: torch.Tensor) -> bool:
    """Return whether fla-core runs an operator on `x` [B, T, H, K]: requested, installed, on CUDA, several tokens."""
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
    """Run `jetlit_kernels.dplr_delta_rule` on fla-core's chunked kernels; return o and the state."""
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
