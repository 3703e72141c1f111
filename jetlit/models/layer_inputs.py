"""What every decoder layer of one forward pass needs beside the hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from jetlit.blocks.base import MaskKind


@dataclass
class LayerInputs:
    """Rotary embeddings, cache and masks; a mask is built when the first layer of its kind asks for it.

    Attributes:
        position_embeddings: (cos, sin), each [B or 1, T, head_dim].
        cache: with a `layers` list that blocks use, or None.
        cu_seqlens: [N + 1] bounds of packed sequences, or None.
        build_mask: makes the mask of a kind.
    """

    position_embeddings: tuple[torch.Tensor, torch.Tensor]
    cache: Any = None
    cu_seqlens: torch.Tensor | None = None
    build_mask: Callable[[MaskKind], torch.Tensor | None] | None = None
    _masks: dict[MaskKind, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, kind: MaskKind) -> torch.Tensor | None:
        """Returns the mask for blocks of this kind, or None when they need none."""
        if kind not in self._masks:
            self._masks[kind] = self.build_mask(kind) if self.build_mask is not None else None
        return self._masks[kind]

    def layer_cache(self, index: int) -> Any:
        """Returns the cache of layer `index`, or None."""
        return None if self.cache is None else self.cache.layers[index]
