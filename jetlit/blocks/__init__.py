"""Token mixers: attention and the blocks that may replace it, one file each, one contract, one registry."""

from __future__ import annotations

import inspect
from typing import Any

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import (
    AttentionCache,
    CarriedState,
    LinearMixer,
    MaskKind,
    StateCache,
    StateSpec,
    TokenMixer,
)
from jetlit.blocks.delta_net import DeltaNet
from jetlit.blocks.gated_delta_net import GatedDeltaNet
from jetlit.blocks.gla import GLA
from jetlit.blocks.jet import JetBlock
from jetlit.blocks.mamba2 import Mamba2
from jetlit.blocks.retnet import RetNet
from jetlit.blocks.rwkv7 import RWKV7
from jetlit.blocks.sliding_window import SlidingWindowAttention
from jetlit.errors import UserError

BLOCKS: dict[str, type[TokenMixer]] = {
    "attn": Attention,
    "swa": SlidingWindowAttention,
    "retnet": RetNet,
    "mamba2": Mamba2,
    "gla": GLA,
    "delta_net": DeltaNet,
    "gated_delta_net": GatedDeltaNet,
    "rwkv7": RWKV7,
    "jet": JetBlock,
}


def get_block(name: str) -> type[TokenMixer]:
    """Returns the class of a block.

    Raises:
        UserError: no block has this name.
    """
    try:
        return BLOCKS[name]
    except KeyError:
        raise UserError(f"There is no block {name!r}; choose one of {', '.join(BLOCKS)}.") from None


def is_attention(name: str) -> bool:
    """Whether a block keeps keys and values, all of them or a window, rather than a state of constant size."""
    return get_block(name).mask_kind != "padding"


def build_block(name: str, hidden_size: int, **config: Any) -> TokenMixer:
    """Builds a block from a configuration as it stands in a YAML or JSON file.

    Args:
        name: a key of `BLOCKS`.
        hidden_size: of the model.
        **config: the constructor's other arguments.

    Raises:
        UserError: the name or an argument is unknown, or an argument is missing.
    """
    block = get_block(name)
    check_block_config(name, config | {"hidden_size": hidden_size})
    return block(hidden_size=hidden_size, **config)  # type: ignore[call-arg]


def check_block_config(name: str, config: dict[str, Any], *, partial: bool = False) -> None:
    """Checks the argument names of a block's configuration.

    Args:
        name: a key of `BLOCKS`.
        config: argument names and values.
        partial: missing arguments are fine (they will come from an attention layer).

    Raises:
        UserError: the block's name or an argument is unknown, or an argument is missing.
    """
    signature = inspect.signature(get_block(name))
    unknown = sorted(set(config) - set(signature.parameters))
    if unknown:
        raise UserError(
            f"Block {name!r} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(signature.parameters)}."
        )
    missing = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in config]
    if missing and not partial:
        raise UserError(f"Block {name!r} needs {', '.join(map(repr, missing))}: add it to the block's configuration.")


__all__ = [
    "BLOCKS",
    "AttentionCache",
    "CarriedState",
    "LinearMixer",
    "MaskKind",
    "StateCache",
    "StateSpec",
    "TokenMixer",
    "build_block",
    "check_block_config",
    "get_block",
    "is_attention",
]
