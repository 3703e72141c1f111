"""Attention over the last `window_size` tokens, itself included."""

from __future__ import annotations

from typing import ClassVar

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import MaskKind
from jetlit.errors import UserError


class SlidingWindowAttention(Attention):
    """Attention in which token t sees tokens t − window_size + 1 … t (window_size tokens, itself included).

    Args:
        hidden_size: of the model.
        num_heads: query heads.
        num_kv_heads: key/value heads.
        head_dim: D.
        window_size: tokens seen; any positive number.
        qkv_bias: as for `Attention`, like the rest.
        output_bias: as above.
        qk_norm: as above.
        norm_eps: as above.
        dropout: as above.

    Raises:
        UserError: the window is not a positive whole number.
    """

    mask_kind: ClassVar[MaskKind] = "sliding"

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        window_size: int,
        qkv_bias: bool = True,
        output_bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float | str = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            hidden_size, num_heads, num_kv_heads, head_dim, qkv_bias, output_bias, qk_norm, norm_eps, dropout
        )
        if isinstance(window_size, bool) or not isinstance(window_size, int) or window_size < 1:
            raise UserError(f"window_size must be a positive whole number of tokens, not {window_size!r}.")
        self.window_size = window_size
