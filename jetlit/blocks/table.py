"""The open table of blocks, and how a block is built from a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from jetlit.blocks.base import TokenMixer
from jetlit.errors import UserError
from jetlit.registry import Registry

Block = TypeVar("Block", bound=type[TokenMixer])

BLOCKS: Registry[type[TokenMixer]] = Registry("block", "jetlit.blocks")


def register_block(name: str) -> Callable[[Block], Block]:
    """Return a decorator that enters a block's class in `BLOCKS`.

    Args:
        name: of the block in `layer_types` and in configuration files.

    Raises:
        UserError: another block has this name.
    """
    return BLOCKS.register(name)  # type: ignore[return-value]


def get_block(name: str) -> type[TokenMixer]:
    """Return the class of a block.

    Raises:
        UserError: no block has this name.
    """
    return BLOCKS.get_or_refuse(name)


def is_attention(name: str) -> bool:
    """Return whether a block keeps keys and values, all of them or a window, and no state of constant size."""
    return get_block(name).mask_kind != "padding"


def build_block(name: str, hidden_size: int, **config: Any) -> TokenMixer:
    """Build a block from its configuration in a YAML or JSON file.

    Args:
        name: a name in `BLOCKS`.
        hidden_size: of the model.
        **config: the block's other settings.

    Raises:
        UserError: the name or a setting is unknown, or a setting is missing.
    """
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
