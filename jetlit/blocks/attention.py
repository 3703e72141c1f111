"""Full softmax attention: rotary positions, grouped key/value heads, optional biases and query/key norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from jetlit.blocks.banded import banded_attention, runs_banded
from jetlit.blocks.base import AttentionCache, MaskKind, TokenMixer
from jetlit.blocks.masks import attention_mask_for
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.errors import UserError

if TYPE_CHECKING:
    from typing import Self


class Attention(TokenMixer):
    """Softmax attention of the Llama, Qwen2 and Qwen3 families.

    The implementation (eager, sdpa, flash attention) is transformers', chosen by the configuration the model attaches
    (`config._attn_implementation`); a block without one uses sdpa.

    Args:
        hidden_size: of the model.
        num_heads: query heads.
        num_kv_heads: key/value heads; each serves num_heads / num_kv_heads query heads.
        head_dim: D.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        output_bias: bias on the output projection (Llama with `attention_bias`).
        qk_norm: RMSNorm over D on queries and keys before the rotation (Qwen3).
        norm_eps: epsilon of that norm.
        dropout: on the attention weights, in training only.

    Raises:
        UserError: num_heads is no multiple of num_kv_heads, or head_dim is odd.
    """

    mask_kind: ClassVar[MaskKind] = "causal"
    window_size: int | None = None
    is_causal = True

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        qkv_bias: bool = True,
        output_bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float | str = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads:
            raise UserError(
                f"{num_heads} attention heads cannot share {num_kv_heads} key/value heads evenly: "
                "make num_attention_heads a multiple of num_key_value_heads."
            )
        if head_dim % 2:
            raise UserError(f"head_dim must be even for rotary positions, not {head_dim}: correct the config.")
        self.hidden_size, self.head_dim = hidden_size, head_dim
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.num_key_value_groups = num_heads // num_kv_heads
        self.scaling = head_dim**-0.5
        self.dropout = dropout
        self.config: PreTrainedConfig | None = None
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=output_bias)
        self.q_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        cache: AttentionCache | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `TokenMixer.forward`.

        Args:
            hidden_states: [B, T, hidden].
            cache: the layer's keys and values so far.
            attention_mask: what `jetlit.blocks.masks.attention_mask_for` gives for this block's window; None: every
                token is real, and the mask is made here where one is needed.
            cu_seqlens: [N + 1] bounds of packed sequences (B is 1).
            position_embeddings: (cos, sin), each [B or 1, T, D]; None means no rotation.

        Returns:
            [B, T, hidden].
        """
        batch, length, _ = hidden_states.shape
        query, key, value = self.project(hidden_states, position_embeddings)
        if attention_mask is None and cache is None and cu_seqlens is None and self._runs_banded(query):
            assert self.window_size is not None
            output = banded_attention(query, key, value, self.window_size, self.scaling)
            return self.o_proj(output.flatten(2))
        if cache is not None:
            key, value = cache.update(key, value)
        implementation = self.implementation
        if attention_mask is None and (cu_seqlens is not None or length > 1 or implementation == "eager"):
            attention_mask = attention_mask_for(
                implementation,
                batch=batch,
                q_length=length,
                kv_length=key.shape[2],
                q_offset=key.shape[2] - length,
                window=self.window_size,
                cu_seqlens=cu_seqlens,
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
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.window_size,
            **_flash_bounds(implementation, cu_seqlens),
        )
        return self.o_proj(output.reshape(batch, length, -1))

    def project(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns normed and rotated queries [B, heads, T, D], keys [B, KV heads, T, D], and values like the keys."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = project(hidden_states, [self.q_proj, self.k_proj, self.v_proj])
        query = self.q_norm(query.view(heads)).transpose(1, 2)
        key = self.k_norm(key.view(heads)).transpose(1, 2)
        value = value.view(heads).transpose(1, 2)
        if position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return query, key, value

    def _runs_banded(self, query: torch.Tensor) -> bool:
        plain = self.window_size is not None and self.implementation == "sdpa" and not (self.training and self.dropout)
        return plain and runs_banded(query.device, query.dtype)

    @property
    def implementation(self) -> str:
        """The attention implementation in use, by transformers' name."""
        return (self.config and self.config._attn_implementation) or "sdpa"

    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Returns the bytes of keys and values of `batch` sequences of `context` tokens."""
        kept = context if self.window_size is None else min(context, self.window_size)
        return 2 * batch * kept * self.num_kv_heads * self.head_dim * dtype.itemsize

    @classmethod
    def from_attention(cls, attention: Attention, **block_kwargs: Any) -> Self:
        """Makes an attention block of this class with the same shapes and the same weights.

        Args:
            attention: the teacher's layer.
            **block_kwargs: constructor arguments that the teacher's layer does not decide (a window size).

        Raises:
            UserError: an argument changes a shape, so that the weights cannot be kept.
        """
        sizes = attention.constructor_arguments()
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

    def constructor_arguments(self) -> dict[str, Any]:
        """Returns the arguments that make an `Attention` of this layer's shapes."""
        return {
            "hidden_size": self.hidden_size,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "qkv_bias": self.q_proj.bias is not None,
            "output_bias": self.o_proj.bias is not None,
            "qk_norm": isinstance(self.q_norm, RMSNorm),
            "norm_eps": self.q_norm.eps if isinstance(self.q_norm, RMSNorm) else 1e-6,
            "dropout": self.dropout,
        }


def _flash_bounds(implementation: str, cu_seqlens: torch.Tensor | None) -> dict[str, Any]:
    """Flash attention takes packed sequences by their bounds instead of a mask."""
    if cu_seqlens is None or not implementation.startswith("flash"):
        return {}
    bounds = cu_seqlens.to(torch.int32)
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
