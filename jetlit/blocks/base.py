"""The contract of token mixers, their open table, and what the linear ones share: state, projections, padding."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from jetlit.blocks.inheritance import inherit_projections
from jetlit.blocks.projections import is_plain, project
from jetlit.errors import UserError
from jetlit.registry import Registry

MaskKind = Literal["causal", "sliding", "padding"]


class TokenMixer(nn.Module, ABC):
    """A layer's token mixing: attention or one of its replacements. All have this interface and nothing else.

    A block is constructed with the fields of its `Settings`, by name or in their order.

    Attributes:
        Settings: a frozen dataclass of the constructor's arguments, which checks them.
        settings: this block's.
        mask_kind: which attention mask the model passes: "causal" and "sliding" for attention, "padding" for a mask
            [B, T] with 1 at real tokens.
        inherits_bias: whether a block made from biased attention has biases by default.
    """

    Settings: ClassVar[type[Any]]
    settings: Any
    mask_kind: ClassVar[MaskKind]
    inherits_bias: ClassVar[bool] = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()
        self.settings = self.Settings(*args, **settings)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "Settings"):
            # What `inspect.signature` and `help` show.
            cls.__signature__ = inspect.signature(cls.Settings)  # type: ignore[attr-defined]

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
        """Mix tokens causally.

        Args:
            hidden_states: [B, T, hidden], already normalized.
            cache: the layer's `AttentionCache` or `StateCache`, which is read and advanced. None: the sequences start
                and end here.
            attention_mask: of the kind that `mask_kind` names, or None when no token is padding.
            cu_seqlens: [N + 1] integers, the bounds of N sequences packed into one row (B is 1).
            position_embeddings: (cos, sin), each [B or 1, T, head_dim]; only attention uses them.

        Returns:
            [B, T, hidden]; a linear block returns zeros at padded positions.
        """

    @abstractmethod
    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Return the bytes of cache that `batch` sequences of `context` tokens need with activations of `dtype`."""

    @classmethod
    @abstractmethod
    def from_attention(cls, attention: Any, **block_kwargs: Any) -> Self:
        """Make a block that starts from the weights of a pre-trained `jetlit.blocks.attention.Attention`."""


Block = TypeVar("Block", bound=type[TokenMixer])

BLOCKS: Registry[type[TokenMixer]] = Registry("block", "jetlit.blocks")


def register_block(name: str) -> Callable[[Block], Block]:
    """Return a decorator that enters a block's class in `BLOCKS`.

    Raises:
        UserError: another block has this name.
    """
    return BLOCKS.register(name)  # type: ignore[return-value]


def get_block(name: str) -> type[TokenMixer]:
    """Return the class of a block; an unknown name is a UserError."""
    return BLOCKS.get_or_refuse(name)


def is_attention(name: str) -> bool:
    """Return whether a block keeps keys and values, all of them or a window, and no state of constant size."""
    return get_block(name).mask_kind != "padding"


def build_block(name: str, hidden_size: int, **config: Any) -> TokenMixer:
    """Build a block from its settings in a YAML or JSON file, which `check_block_config` checks."""
    check_block_config(name, config | {"hidden_size": hidden_size})
    return get_block(name)(hidden_size=hidden_size, **config)


def check_block_config(name: str, config: dict[str, Any], *, partial: bool = False) -> None:
    """Check the names of a block's settings.

    Args:
        name: a name in `BLOCKS`.
        config: settings and their values.
        partial: settings may be missing, because they will come from an attention layer.

    Raises:
        UserError: the block's name or a setting is unknown, or a setting is missing.
    """
    settings = inspect.signature(get_block(name)).parameters
    unknown = sorted(set(config) - set(settings))
    if unknown:
        raise UserError(f"Block {name!r} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(settings)}.")
    missing = [p.name for p in settings.values() if p.default is p.empty and p.name not in config]
    if missing and not partial:
        raise UserError(f"Block {name!r} needs {', '.join(map(repr, missing))}: add it to the block's configuration.")


class AttentionCache(Protocol):
    """What an attention block needs of its layer's cache."""

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, Hkv, T, D]; return those to attend to."""


class StateCache(Protocol):
    """What a linear block needs of its layer's cache: named tensors [N, ...] with the sequence in front."""

    def read(self, name: str) -> torch.Tensor | None:
        """Return the stored tensor itself (a block may update it in place), or None before the first write."""

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Store a tensor; once a tensor of that name is allocated, copy into it."""


class StateSpec(NamedTuple):
    """Shape of one sequence's carried tensor; `dtype` None is the dtype of the activations."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


class CarriedState:
    """What a block carries from one call to the next: the tensors of the layer's cache, or nothing without a cache.

    Attributes:
        kept: whether there is a cache to write final states to.
    """

    def __init__(self, cache: StateCache | None) -> None:
        self._cache = cache
        self.kept = cache is not None

    def read(self, name: str) -> torch.Tensor | None:
        """Return the carried tensor [N, ...], or None at the start of a sequence."""
        return None if self._cache is None else self._cache.read(name)

    def write(self, name: str, tensor: torch.Tensor | None) -> None:
        """Store a final state; do nothing without a cache."""
        if self._cache is not None and tensor is not None:
            self._cache.write(name, tensor)

    def recur(self, operator: Callable[..., Any], *inputs: torch.Tensor | None, **options: Any) -> torch.Tensor:
        """Run a recurrence of `jetlit_kernels` that starts from, and advances, the carried state "recurrent".

        Args:
            operator: takes `initial_state` and `output_final_state`, returns the output and the final state.
            *inputs: the operator's tensors.
            **options: the operator's other arguments.

        Returns:
            The output [B, T, h, V].
        """
        o, final = operator(*inputs, initial_state=self.read("recurrent"), output_final_state=self.kept, **options)
        self.write("recurrent", final)
        return o


class BlockPart(nn.Module):
    """A module that blocks are composed of and that brings its own state and initialization."""

    def state_specs(self) -> dict[str, StateSpec]:
        """Return name, shape and dtype of what the module carries, for one sequence."""
        return {}

    def init_weights(self) -> None:
        """Initialize the module's parameters."""

    def pass_through(self) -> None:
        """Let what comes from a pre-trained attention's projections pass unchanged, where that is possible."""


@dataclass(frozen=True)
class LinearSettings:
    """Settings that every linear block has."""

    hidden_size: int
    num_heads: int  # h
    head_dim: int  # K, the key size of a head
    expand_v: float = 1.0  # the value size of a head is V = int(K · expand_v)
    qkv_bias: bool = False  # on the query, key and value projections
    norm_eps: float | str = 1e-5  # epsilon of the output norm; released configurations write it as a string

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.num_heads, self.head_dim, self.value_head_dim) < 1:
            raise UserError(
                f"A linear block needs positive sizes; got hidden_size {self.hidden_size}, num_heads {self.num_heads}, "
                f"head_dim {self.head_dim} and expand_v {self.expand_v} (value size {self.value_head_dim}): "
                "correct the config."
            )

    @property
    def value_head_dim(self) -> int:
        """V."""
        # 7 / 3 · 3 must be 7 although floating point makes it a little less.
        return math.floor(self.head_dim * self.expand_v + 1e-6)


class LinearMixer(TokenMixer):
    """A mixer whose memory is a state of constant size. A subclass gives `mix`; the rest is here."""

    Settings: ClassVar[type[LinearSettings]] = LinearSettings
    settings: LinearSettings
    mask_kind: ClassVar[MaskKind] = "padding"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own = self.settings
        self.hidden_size, self.num_heads, self.head_dim = own.hidden_size, own.num_heads, own.head_dim
        self.value_head_dim, self.norm_eps = own.value_head_dim, float(own.norm_eps)
        self.key_dim, self.value_dim = self.num_heads * self.head_dim, self.num_heads * self.value_head_dim
        self.q_proj = nn.Linear(self.hidden_size, self.key_dim, bias=own.qkv_bias)
        self.k_proj = nn.Linear(self.hidden_size, self.key_dim, bias=own.qkv_bias)
        self.v_proj = nn.Linear(self.hidden_size, self.value_dim, bias=own.qkv_bias)
        self.o_proj = nn.Linear(self.value_dim, self.hidden_size, bias=False)

    @abstractmethod
    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """Mix sequences without padding: [B, T, hidden] to [B, T, hidden].

        Args:
            hidden: [B, T, hidden]; with `cu_seqlens` B is 1.
            state: carried tensors; their first dimension is the sequence (N = B, or the number of packed ones).
            cu_seqlens: [N + 1] or None.
        """

    def step_inputs(self) -> list[nn.Linear]:
        """Return the projections of the block's input that `step` takes, in its order; none for a block without it."""
        return []

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """Return the submodules whose tensors `step` reads instead of calling them, with their classes."""
        return {}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mix one token of each sequence faster than `mix` would; a block may have this beside `mix`.

        It must neither allocate states nor wait for the device, so that a CUDA graph can capture it.

        Args:
            projected: outputs of `step_inputs()`, each [B, width]; rows may be strided.
            states: the tensors of `state_specs()` by name, [N, ...], updated in place.
            slots: [B] integers, which of the N states belongs to each sequence; None: N is B, in order.

        Returns:
            [B, h·V], the input of `o_proj`.
        """
        raise NotImplementedError

    def _can_step(self, states: Mapping[str, torch.Tensor | None]) -> bool:
        return (
            bool(self.step_inputs())
            and all(state is not None for state in states.values())
            and all(is_plain(self.get_submodule(name), kind) for name, kind in self.step_reads().items())
        )

    def _mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """Take the step where there is one for these inputs, else `mix`."""
        if hidden.shape[1] == 1 and cu_seqlens is None and state.kept and not torch.is_grad_enabled():
            states = {name: state.read(name) for name in self.state_specs()}
            if self._can_step(states):
                projected = project(hidden[:, 0], self.step_inputs())
                return self.o_proj(self.step(projected, states))[:, None]  # type: ignore[arg-type]
        return self.mix(hidden, state, cu_seqlens)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """View [..., h·D] as [..., h, D]."""
        return x.unflatten(-1, (self.num_heads, -1))

    def heads(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Project [B, T, hidden] to q, k [B, T, h, K] and v [B, T, h, V]."""
        q, k, v = project(hidden, [self.q_proj, self.k_proj, self.v_proj])
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def _parts(self) -> list[BlockPart]:
        return [module for module in self.modules() if isinstance(module, BlockPart)]

    def state_specs(self) -> dict[str, StateSpec]:
        """Return name, shape and dtype of everything the block carries, for one sequence."""
        specs = {"recurrent": StateSpec((self.num_heads, self.head_dim, self.value_head_dim), torch.float32)}
        for part in self._parts():
            specs |= part.state_specs()
        return specs

    def init_weights(self) -> None:
        """Initialize the parameters that are not of plain linear layers or norms.

        Constructors call it; a model that initializes its linear layers again calls it afterward.
        """
        for part in self._parts():
            part.init_weights()

    def after_inheriting(self) -> None:
        """Adjust the block's own parameters to projections that come from attention."""
        for part in self._parts():
            part.pass_through()

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
            return self._mix(hidden_states, state, cu_seqlens)
        if cu_seqlens is not None:
            raise ValueError("Give either attention_mask (a padded batch) or cu_seqlens (a packed one), not both.")
        # With a cache the mask may cover the past too.
        real = attention_mask[:, -hidden_states.shape[1] :].bool()
        if bool(real.all()):
            return self._mix(hidden_states, state, None)
        if not bool(real.any()):
            return torch.zeros_like(hidden_states)
        # The real tokens of all rows as one packed sequence [1, total, hidden]; a row may be empty.
        lengths = real.sum(1, dtype=torch.int32)
        mixed = self.mix(hidden_states[real][None], state, F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)))
        return mixed.new_zeros(hidden_states.shape).masked_scatter(real[..., None], mixed)

    def state_bytes(self, batch: int, context: int, dtype: torch.dtype) -> int:
        """Return the bytes of state of `batch` sequences; the context does not matter."""
        specs = self.state_specs().values()
        return batch * sum(math.prod(spec.shape) * (spec.dtype or dtype).itemsize for spec in specs)

    @classmethod
    def from_attention(cls, attention: Any, **block_kwargs: Any) -> Self:
        """Make a block whose q, k, v and o projections start from a pre-trained attention layer.

        Args:
            attention: the teacher's layer.
            **block_kwargs: settings; `num_heads`, `head_dim` and `qkv_bias` default to the attention's.
        """
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
