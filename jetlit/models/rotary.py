"""Rotary position embeddings whose frequencies stay in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


class HybridRotaryEmbedding(LlamaRotaryEmbedding):
    """transformers' rotary embedding, all its scaling types included, that survives `model.to(torch.bfloat16)`.

    A bfloat16 frequency is wrong by up to 0.4%, which is many whole turns at position 10,000.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        exact = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32:
                setattr(self, name, buffer.to(moved.device))
        return self
