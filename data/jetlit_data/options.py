"""Settings from configuration files, checked against the annotations of what takes them."""

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jetlit.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers that an annotated setting takes: `Annotated[int, Range(1)]`."""

    least: float = -math.inf
    most: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        bounds = {"at least": self.least, "at most": self.most}
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound))


Positive = Annotated[int, Range(1)]


def build(kind: Callable[..., T], label: str, options: Mapping[str, Any]) -> T:
    """Call `kind`, a dataclass or a function, with options by name.

    Args:
        kind: what is called. Numbers, texts, lists, literals and unions of them in its annotations are checked.
        label: what to call it in messages ('Source "hub"').
        options: the arguments.

    Raises:
        UserError: it takes no such option or no such value, or needs an option that is not given.
    """
    parameters = inspect.signature(kind).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        for option in options:
            if option not in parameters:
                known = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
                raise UserError(f'{label} has no option "{option}": {known}.')
    for name, each in parameters.items():
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD and name not in options:
            raise UserError(f'{label} needs the option "{name}".')
    hints = _hints(kind)
    for name, value in options.items():
        if name in parameters and not fits(value, hints.get(name, Any)):
            raise UserError(f'{label} takes {describe(hints[name])} as "{name}", not {value!r}: correct it.')
    return kind(**options)


def _hints(kind: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):  # of somebody's own class, whose annotations name what is not there
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is what an annotation asks for. Infinite numbers and NaN are none; a whole one is a float.

    Annotations of other kinds than `describe` knows fit everything.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0]) and all(value in part for part in parts[1:] if isinstance(part, Range))
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if hint in (int, float):
        is_number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        return is_number and (isinstance(value, int) or math.isfinite(value))
    if hint in (str, bool, None, type(None)):
        return isinstance(value, type(None) if hint is None else hint)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    return True


def describe(hint: Any) -> str:
    """Return in words what an annotation asks for."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [str(part) for part in parts[1:] if isinstance(part, Range)]
        return " ".join([describe(parts[0]), *(f"of {limit}" for limit in limits)])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe, parts)))
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin in (list, tuple):
        return f"a list of {describe(parts[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))
