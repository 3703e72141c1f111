"""What a fit's config may build: classes of a few kinds, never the result of any function."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jetlit.errors import UserError
from jetlit.pipeline.configs import named_object

# Recipes are modules.
KINDS = (Optimizer, LRScheduler, nn.Module, LightningDataModule, Callback, Logger, Profiler, Strategy)


def check_classes(config: Any) -> None:
    """Refuse a parsed config that would call a function.

    jsonargparse takes any function for a `Callable`, such as an optimizer, and calls it with arguments of the config.
    It holds other classes to the annotation of their place.

    Raises:
        UserError: a class is named that is none of `KINDS` and may be called, or a function that returns none of them.
    """
    for key, name, named in _named(config, ""):
        kind = named if inspect.isclass(named) else _returned(named)
        if not (inspect.isclass(kind) and issubclass(kind, KINDS)) and (kind is not named or _is_callable(kind)):
            raise UserError(
                f"{key} names {name}, which a config may not call: name a class of the kind that is asked for, such as "
                "torch.optim.AdamW, or a function whose annotation says that it returns one."
            )


def _named(value: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the key, the name and the object of each class and function in a config."""
    if callable(value) and not inspect.isclass(value):
        yield key, getattr(value, "__qualname__", type(value).__qualname__), value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item, key)
    elif isinstance(value, dict | Namespace):
        items = dict(value.items() if isinstance(value, dict) else vars(value))
        if isinstance(items.get("class_path"), str):
            try:
                named = named_object(items["class_path"])
            except (ImportError, AttributeError, ValueError):
                return  # jsonargparse has left it as data, in a place of any type
            yield key, items["class_path"], named
            own = _defaults(named)
            settings = {**_plain(items.get("init_args")), **_plain(items.get("dict_kwargs"))}
            items = {name: each for name, each in settings.items() if each is not own.get(name, value)}
        for name, item in items.items():
            yield from _named(item, f"{key}.{name}" if key else name)


def _plain(value: Any) -> dict[str, Any]:
    return vars(value) if isinstance(value, Namespace) else value or {}


def _defaults(named: Callable[..., Any]) -> dict[str, Any]:
    try:
        return {name: parameter.default for name, parameter in inspect.signature(named).parameters.items()}
    except (TypeError, ValueError):
        return {}


def _returned(function: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (TypeError, NameError, AttributeError):
        return None


def _is_callable(kind: type) -> bool:
    return any("__call__" in vars(base) for base in kind.__mro__)
