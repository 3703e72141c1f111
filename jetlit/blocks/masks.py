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
    window: int | None = None,
    padding: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    explicit: bool = False,
    **shape: Any,
) -> torch.Tensor | None:
    """Build a causal mask, optionally of a sliding window, of packed sequences, or with padding.

    Args:
        implementation: transformers' name: "eager" gives an additive mask, "sdpa" a boolean one (True = visible),
            flash attention the padding mask.
        window: a token sees this many tokens, itself included; None means all.
        padding: [B, seen tokens] bool, True at real tokens.
        cu_seqlens: [N + 1] bounds of packed sequences; tokens of different sequences do not see each other.
        explicit: return a mask even where sdpa's own causal one would do, because some keys are not written yet.
        **shape: batch_size, q_length, kv_length, q_offset and kv_offset (positions of the first query and key),
            dtype and device, as transformers' functions take them.

    Returns:
        [B, 1, q_length, kv_length], [B, kv_length] for flash attention, or None where no mask is needed.
    """
    build: Callable[..., Any] | None = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation)
    if build is None:
        return None
    visible = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    if cu_seqlens is not None:
        owner = sequence_index(cu_seqlens, shape["q_length"])
        visible = and_masks(visible, packed_sequence_mask_function(owner[None]))
    return build(
        mask_function=visible,
        attention_mask=padding,
        local_size=window,
        allow_is_causal_skip=cu_seqlens is None and not explicit,
        **shape,
    )
