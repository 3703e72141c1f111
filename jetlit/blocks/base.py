"""The contract of every token mixer, and what the linear ones share: projections, carried state, padding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import nn

from jetlit.blocks.padding import pack, unpack
from jetlit.blocks.projections import project
from jetlit.errors import UserError

if TYPE_CHECKING:
    from typing import Self

    from jetlit.blocks.attention import Attention

MaskKind = Literal["causal", "sliding", "padding"]


class AttentionCache(Protocol):
    """What an attention block needs of its layer's cache."""

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values [B, Hkv, T, D]; returns those to attend to."""


class StateCache(Protocol):
    """What a linear block needs of its layer's cache: named tensors with the sequence in front."""

    def read(self, name: str) -> torch.Tensor | None:
        """Returns the stored tensor itself (a block may update it in place), or None before the first write."""

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Stores a tensor; once a tensor of that name is allocated, by copying into it."""


class StateSpec(NamedTuple):
    """Shape of one carried tensor without its leading sequence dimension; `dtype` None is the activations' type."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


class CarriedState:
    """What a block carries from one call to the next: the layer's cache, or nothing when there is none.

    Attributes:
        kept: whether final states are wanted (there is a cache to write them to).
    """

    def __init__(self, cache: StateCache | None) -> None:
        self._cache = cache
        self.kept = cache is not None

    def read(self, name: str) -> torch.Tensor | None:
        """Returns the carried tensor [N, ...], or None at the start of a sequence."""
        return None if self._cache is None else self._cache.read(name)

    def write(self, name: str, tensor: torch.Tensor | None) -> None:
        """Hands a final state to the cache; without a cache nothing happens."""
        if self._cache is not None and tensor is not None:
            self._cache.write(name, tensor)


class TokenMixer(nn.Module, ABC):
    """A layer's token mixing: attention or one of its replacements. All have this interface and nothing else.

    Attributes:
        mask_kind: which attention mask the model hands over: "causal" and "sliding" for attention, "padding" for a
            mask [B, T] with 1 at real tokens.
    """

    mask_kind: ClassVar[MaskKind]

    @abstractmethod
    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        cache: Any = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Mixes tokens causally.

        Args:
            hidden_states: [B, T, hidden], already normalised.
            cache: the layer's cache (`AttentionCache` or `StateCache`); it is read and advanced. None: the sequences
                start here and end here.
            attention_mask: of the kind `mask_kind` says, or None when no token is padding.
            cu_seqlens: [N + 1] integers, the bounds of N sequences packed into one row (B is 1).
            position_embeddings: (cos, sin), each [B, T, head_dim]; only attention uses them.

        Returns:
            [B, T, hidden]; a linear block returns zeros at padded positions.
        """

    @abstractmethod
    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Returns the bytes of cache that `batch` sequences of `context` tokens need in activations of `dtype`."""

    @classmethod
    @abstractmethod
    def from_attention(cls, attention: Attention, **block_kwargs: Any) -> Self:
        """Makes a block that starts from the weights of a pre-trained attention layer."""


class LinearMixer(TokenMixer):
    """A mixer whose memory is a state of constant size. A subclass gives `mix`; the rest is here.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K, the key size of a head.
        expand_v: the value size of a head is V = int(K · expand_v).
        qkv_bias: whether the query, key and value projections have a bias.
        norm_eps: epsilon of the output norm; released configurations write it as a string.

    Attributes:
        inherits_bias: whether a block made from biased attention has biases unless told otherwise.

    Raises:
        UserError: a size is not positive.
    """

    mask_kind: ClassVar[MaskKind] = "padding"
    inherits_bias: ClassVar[bool] = True

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 1.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
    ) -> None:
        super().__init__()
        self.hidden_size, self.num_heads, self.head_dim = hidden_size, num_heads, head_dim
        # 7 / 3 · 3 must be 7 although floating point makes it a little less.
        self.value_head_dim = math.floor(head_dim * expand_v + 1e-6)
        self.key_dim, self.value_dim = num_heads * head_dim, num_heads * self.value_head_dim
        self.norm_eps = float(norm_eps)
        if min(hidden_size, num_heads, head_dim, self.value_head_dim) < 1:
            raise UserError(
                f"{type(self).__name__} needs positive sizes; got hidden_size {hidden_size}, num_heads {num_heads}, "
                f"head_dim {head_dim} and expand_v {expand_v} (value size {self.value_head_dim}): correct the config."
            )
        self.q_proj = nn.Linear(hidden_size, self.key_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden_size, self.key_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden_size, self.value_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(self.value_dim, hidden_size, bias=False)

    @abstractmethod
    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """Mixes sequences without padding: [B, T, hidden] to [B, T, hidden].

        Args:
            hidden: [B, T, hidden]; with `cu_seqlens` B is 1.
            state: carried tensors; their first dimension is the sequence (N = B, or the number of packed ones).
            cu_seqlens: [N + 1] or None.
        """

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Views [..., h·D] as [..., h, D]."""
        return x.unflatten(-1, (self.num_heads, -1))

    def heads(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Projects [B, T, hidden] to q, k [B, T, h, K] and v [B, T, h, V]."""
        q, k, v = project(hidden, [self.q_proj, self.k_proj, self.v_proj])
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def read_out(self, o: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Projects what the heads read, [B, T, h, V], to [B, T, hidden]; `hidden` is the block's input, for gates."""
        return self.o_proj(o.flatten(2))

    def state_specs(self) -> dict[str, StateSpec]:
        """Returns name, shape and type of everything the block carries, for one sequence."""
        return {"recurrent": StateSpec((self.num_heads, self.head_dim, self.value_head_dim), torch.float32)}

    def init_weights(self) -> None:
        """Initialises the block's own parameters, those that are not weights of plain linear layers or norms.

        Constructors call it; a model that re-initialises its linear layers calls it afterwards.
        """

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        cache: StateCache | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `TokenMixer.forward`. Padded positions touch neither state nor convolution; their output is zero.

        Raises:
            ValueError: both a mask and cu_seqlens were given.
        """
        state = CarriedState(cache)
        if attention_mask is None:
            return self.mix(hidden_states, state, cu_seqlens)
        if cu_seqlens is not None:
            raise ValueError("Give either attention_mask (a padded batch) or cu_seqlens (a packed one), not both.")
        # With a cache the mask may cover the past too.
        real = attention_mask[:, -hidden_states.shape[1] :].bool()
        if bool(real.all()):
            return self.mix(hidden_states, state, None)
        if not bool(real.any()):
            return torch.zeros_like(hidden_states)
        packed, bounds = pack(hidden_states, real)
        return unpack(self.mix(packed, state, bounds), real)

    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Returns the bytes of state of `batch` sequences; the context does not matter."""
        return batch * sum(
            math.prod(spec.shape) * (spec.dtype or dtype).itemsize for spec in self.state_specs().values()
        )

    @classmethod
    def from_attention(cls, attention: Attention, **block_kwargs: Any) -> Self:
        """Makes a block whose q, k, v and o projections start from a pre-trained attention layer.

        `num_heads`, `head_dim` and `qkv_bias` default to the attention's. `jetlit.blocks.inheritance` says what is
        inherited when sizes differ.

        Args:
            attention: the teacher's layer.
            **block_kwargs: arguments of the constructor.
        """
        from jetlit.blocks.inheritance import inherit_projections

        weight = attention.q_proj.weight
        sizes = {
            "hidden_size": attention.hidden_size,
            "num_heads": attention.num_heads,
            "head_dim": attention.head_dim,
            "qkv_bias": cls.inherits_bias and attention.q_proj.bias is not None,
        }
        with torch.device(weight.device):
            block = cls(**(sizes | block_kwargs)).to(weight.dtype)
        with torch.no_grad():
            inherit_projections(block, attention)
            block.after_inheriting()
        return block

    def after_inheriting(self) -> None:
        """Adjusts the block's own parameters to projections that come from attention; nothing by default."""
