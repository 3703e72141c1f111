"""Attention masks, in the form that the chosen attention implementation of transformers takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    and_masks,
    causal_mask_function,
    packed_sequence_mask_function,
    sliding_window_causal_mask_function,
)

from jetlit.blocks.packing import sequence_index


def attention_mask_for(
    implementation: str,
    *,
    batch: int,
    q_length: int,
    dtype: torch.dtype,
    device: torch.device,
    kv_length: int | None = None,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    window: int | None = None,
    padding: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    explicit: bool = False,
) -> torch.Tensor | None:
    """Build a causal mask, optionally of a sliding window, of packed sequences, or with padding.

    Args:
        implementation: transformers' name: "eager" gives an additive mask, "sdpa" a boolean one (True = visible),
            flash attention the padding mask.
        batch: B.
        q_length: number of queries, of which the first stands at `q_offset`.
        dtype: of an additive mask.
        device: of the mask.
        kv_length: number of keys, of which the first stands at `kv_offset`; None means `q_length`.
        q_offset: see above.
        kv_offset: see above.
        window: a token sees this many tokens, itself included; None means all.
        padding: [B, seen tokens] bool, True at real tokens.
        cu_seqlens: [N + 1] bounds of packed sequences; tokens of different sequences do not see each other.
        explicit: return a mask even where sdpa's own causal one would do, because some keys are not written yet.

    Returns:
        [B, 1, q_length, kv_length], [B, kv_length] for flash attention, or None where no mask is needed.
    """
    build: Callable[..., Any] | None = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation)
    if build is None:
        return None
    visible = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    if cu_seqlens is not None:
        visible = and_masks(visible, packed_sequence_mask_function(sequence_index(cu_seqlens, q_length)[None]))
    return build(
        batch_size=batch,
        q_length=q_length,
        kv_length=q_length if kv_length is None else kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=visible,
        attention_mask=padding,
        local_size=window,
        allow_is_causal_skip=cu_seqlens is None and not explicit,
        dtype=dtype,
        device=device,
    )
