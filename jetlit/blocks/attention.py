"""Full softmax attention: rotary positions, grouped key/value heads, optional biases and query/key norms."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from jetlit.blocks.banded import banded_attention, runs_banded
from jetlit.blocks.base import AttentionCache, MaskKind, TokenMixer, register_block
from jetlit.blocks.masks import attention_mask_for
from jetlit.blocks.projections import check_projections, project
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.errors import UserError


@register_block("attn")
class Attention(TokenMixer):
    """Softmax attention of the Llama, Qwen2 and Qwen3 families.

    The implementation (eager, sdpa, flash attention) is transformers', chosen by the configuration that the model
    attaches (`config._attn_implementation`). A block without one uses sdpa.
    """

    @dataclass(frozen=True)
    class Settings:
        """Settings of attention."""

        hidden_size: int
        num_heads: int  # query heads
        num_kv_heads: int  # key/value heads; each serves num_heads / num_kv_heads query heads
        head_dim: int  # D, even
        qkv_bias: bool = True  # on the query, key and value projections (Qwen2)
        output_bias: bool = False  # on the output projection (Llama with `attention_bias`)
        qk_norm: bool = False  # RMSNorm over D on queries and keys before the rotation (Qwen3)
        norm_eps: float | str = 1e-6  # of that norm
        dropout: float = 0.0  # on the attention weights, in training only

        def __post_init__(self) -> None:
            if self.num_heads % self.num_kv_heads:
                raise UserError(
                    f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads evenly: "
                    "make num_attention_heads a multiple of num_key_value_heads."
                )
            if self.head_dim % 2:
                raise UserError(f"head_dim must be even for rotary positions, not {self.head_dim}: correct the config.")

    settings: Settings
    mask_kind: ClassVar[MaskKind] = "causal"
    window_size: int | None = None
    is_causal = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own = self.settings
        self.hidden_size, self.head_dim = own.hidden_size, own.head_dim
        self.num_heads, self.num_kv_heads = own.num_heads, own.num_kv_heads
        self.num_key_value_groups = own.num_heads // own.num_kv_heads
        self.scaling, self.dropout = own.head_dim**-0.5, own.dropout
        self.config: PreTrainedConfig | None = None
        queries, keys = own.num_heads * own.head_dim, own.num_kv_heads * own.head_dim
        self.q_proj = nn.Linear(own.hidden_size, queries, bias=own.qkv_bias)
        self.k_proj = nn.Linear(own.hidden_size, keys, bias=own.qkv_bias)
        self.v_proj = nn.Linear(own.hidden_size, keys, bias=own.qkv_bias)
        self.o_proj = nn.Linear(queries, own.hidden_size, bias=own.output_bias)
        self.q_norm = RMSNorm(own.head_dim, own.norm_eps) if own.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(own.head_dim, own.norm_eps) if own.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        cache: AttentionCache | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `TokenMixer.forward`. Without position_embeddings nothing is rotated."""
        batch, length, _ = hidden_states.shape
        query, key, value = self.project(hidden_states, position_embeddings)
        implementation = (self.config and self.config._attn_implementation) or "sdpa"
        dropout = self.dropout if self.training else 0.0
        plain = implementation == "sdpa" and not dropout and attention_mask is None and cache is None
        if self.window_size is not None and plain and cu_seqlens is None and runs_banded(query.device, query.dtype):
            return self.o_proj(banded_attention(query, key, value, self.window_size, self.scaling).flatten(2))
        if cache is not None:
            key, value = cache.update(key, value)
        if attention_mask is None and (cu_seqlens is not None or length > 1 or implementation == "eager"):
            attention_mask = attention_mask_for(
                implementation,
                window=self.window_size,
                cu_seqlens=cu_seqlens,
                batch_size=batch,
                q_length=length,
                kv_length=key.shape[2],
                q_offset=key.shape[2] - length,
                dtype=query.dtype,
                device=query.device,
            )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=self.scaling,
            sliding_window=self.window_size,
            **_flash_bounds(implementation, cu_seqlens),
        )
        return self.o_proj(output.reshape(batch, length, -1))

    def project(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return normed and rotated queries [B, heads, T, D], keys [B, KV heads, T, D], and values like the keys."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = project(hidden_states, [self.q_proj, self.k_proj, self.v_proj])
        query = self.q_norm(query.view(heads)).transpose(1, 2)
        key = self.k_norm(key.view(heads)).transpose(1, 2)
        value = value.view(heads).transpose(1, 2)
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return query, key, value

    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Return the bytes of keys and values of `batch` sequences of `context` tokens."""
        kept = context if self.window_size is None else min(context, self.window_size)
        return 2 * batch * kept * self.num_kv_heads * self.head_dim * dtype.itemsize

    @classmethod
    def from_attention(cls, attention: Attention, **block_kwargs: Any) -> Self:
        """Make an attention block of this class with the same shapes and the same weights.

        Raises:
            UserError: one of `block_kwargs` changes a shape, so that the weights cannot be kept, or a projection of the
                attention is more than its weights.
        """
        check_projections(attention)
        sizes = {field.name: getattr(attention.settings, field.name) for field in fields(Attention.Settings)}
        changed = {name: value for name, value in block_kwargs.items() if name in sizes and sizes[name] != value}
        if changed:
            raise UserError(
                f"{cls.__name__} keeps its teacher's weights, so {', '.join(changed)} cannot be changed: "
                "remove it from the block's config."
            )
        weight = attention.q_proj.weight
        with torch.device(weight.device):
            block = cls(**(sizes | block_kwargs)).to(weight.dtype)
        block.load_state_dict(attention.state_dict())
        block.config = attention.config
        return block


def _flash_bounds(implementation: str, cu_seqlens: torch.Tensor | None) -> dict[str, Any]:
    """Return the bounds of packed sequences, which flash attention takes instead of a mask."""
    if cu_seqlens is None or not implementation.startswith("flash"):
        return {}
    bounds = cu_seqlens.to(torch.int32)
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
