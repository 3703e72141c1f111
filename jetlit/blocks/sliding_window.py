"""Attention over the last `window_size` tokens, itself included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import MaskKind, register_block
from jetlit.errors import UserError


@register_block("swa")
class SlidingWindowAttention(Attention):
    """Attention in which token t sees tokens t − window_size + 1 … t (window_size tokens, itself included)."""

    @dataclass(frozen=True)
    class Settings(Attention.Settings):
        """Settings beside those of attention."""

        window_size: int = field(kw_only=True)  # tokens seen, the token itself included

        def __post_init__(self) -> None:
            super().__post_init__()
            window = self.window_size
            if isinstance(window, bool) or not isinstance(window, int) or window < 1:
                raise UserError(f"window_size must be a positive whole number of tokens, not {window!r}: correct it.")

    settings: Settings
    mask_kind: ClassVar[MaskKind] = "sliding"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.window_size = self.settings.window_size
