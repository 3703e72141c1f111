"""Types of the values in configs: a plain type and the range that makes sense.

jsonargparse checks them when it parses a config, `check_values` when Python makes one.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, Strict, TypeAdapter, ValidationError

from jetlit.errors import UserError

T = TypeVar("T")
_TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "dictionary": "dict"}


def _read(value: Any) -> Any:
    """Return what a text of the command line stands for."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"There is no device {name!r}: use auto, cpu or cuda.")
    return name


def _dtype(name: str) -> str:
    if name not in ("float64", "float32", "bfloat16", "float16"):
        raise ValueError(f"There is no floating-point dtype {name!r}: use float32, bfloat16 or float16.")
    return name


def _length(steps: int) -> int:
    if steps == 0:
        raise ValueError("A fit of 0 steps trains nothing: give a positive number, or -1 for no limit.")
    return steps


# BeforeValidator stands last: pydantic applies it first.
Count = Annotated[int, Strict(), Field(ge=1, lt=2**31), BeforeValidator(_read)]
NonNegativeInt = Annotated[int, Strict(), Field(ge=0, lt=2**31), BeforeValidator(_read)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32), BeforeValidator(_read)]  # what NumPy takes
Layers = Annotated[int, Strict(), Field(ge=1, le=1024), BeforeValidator(_read)]
BlockSize = Annotated[int, Strict(), Field(ge=2, lt=2**31), BeforeValidator(_read)]  # a token and the one to predict
ChunkTokens = Annotated[int, Strict(), Field(ge=2, le=2**30), BeforeValidator(_read)]  # a chunk is held in memory
Length = Annotated[int, Strict(), Field(ge=-1, lt=2**63), AfterValidator(_length), BeforeValidator(_read)]
PositiveFloat = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), BeforeValidator(_read)]
NonNegativeFloat = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), BeforeValidator(_read)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_read)]
InnerFraction = Annotated[float, Strict(), Field(gt=0, lt=1, allow_inf_nan=False), BeforeValidator(_read)]
Device = Annotated[str, AfterValidator(_device)]
Dtype = Annotated[str, AfterValidator(_dtype)]
NonEmptyList = Annotated[list[T], Field(min_length=1), BeforeValidator(_read)]


def check_values(kind: Callable[..., Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Check values, by argument, against the annotations of a dataclass or a function; others are left alone.

    Args:
        kind: the dataclass or function.
        values: its arguments.
        prefix: of the arguments' names in messages.

    Raises:
        UserError: a value is outside of its range.
    """
    for name, adapter in _adapters(kind).items():
        if name in values:
            try:
                adapter.validate_python(values[name])
            except ValidationError as error:
                raise UserError(say_error(prefix + name, str(error)) or str(error)) from None


@cache
def _adapters(kind: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: TypeAdapter(hint) for name, hint in hints.items() if _is_ranged(hint)}


def _is_ranged(hint: Any) -> bool:
    return hasattr(hint, "__metadata__") or any(_is_ranged(part) for part in typing.get_args(hint))


def say_error(name: str, text: str) -> str | None:
    """Return one sentence of pydantic's message about a value, None if the text holds no such message."""
    own = re.search(r"Value error, (.*?) \[type=value_error", text)
    if own:
        return own[1]
    wrong = re.search(
        r"\w+ should (.*?)(?: after validation, not \d+)? \[type=\w+, input_value=(.*?), input_type=", text
    )
    if wrong is None:
        return None
    kind = re.fullmatch(r"be a valid (\w+)", wrong[1])
    if kind:
        return f"{name} takes {_TYPES.get(kind[1], kind[1])}, not {wrong[2]}: correct the value."
    return f"{name} is {wrong[2]}, but should {wrong[1]}: correct the value."
