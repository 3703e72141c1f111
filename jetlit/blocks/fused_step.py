"""The decode step of linear blocks in one launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jetlit_kernels import recurrent_step


def fused_step(
    block: Any,
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    states: Mapping[str, torch.Tensor],
    slots: torch.Tensor | None,
    *,
    gate: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """Run `jetlit_kernels.recurrent_step` for a `LinearMixer` with an `o_norm`.

    Args:
        block: the block; where it has `q_conv1d`, `k_conv1d` and `v_conv1d`, these convolve.
        heads: q, k [B, h·K] and v [B, h·V].
        states: see `LinearMixer.step`.
        slots: see `LinearMixer.step`.
        gate: [B, h·V] or None.
        **options: other arguments of `recurrent_step`.

    Returns:
        [B, h·V].
    """
    for name, x in zip("qkv", heads, strict=True):
        convolution = getattr(block, f"{name}_conv1d", None)
        if convolution is not None:
            options |= convolution.step_arguments(name, states, len(x))
    q, k, v = (block.split_heads(x) for x in heads)
    o = recurrent_step(
        q,
        k,
        v,
        states["recurrent"],
        block.o_norm.weight,
        norm_eps=block.norm_eps,
        gate=None if gate is None else block.split_heads(gate),
        slots=slots,
        **options,
    )
    return o.flatten(1)
