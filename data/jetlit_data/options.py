"""Settings from configuration files, checked against the annotations of what takes them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from jetlit.errors import UserError
from jetlit.values import say_error

T = TypeVar("T")


def build(kind: Callable[..., T], label: str, options: Mapping[str, Any]) -> T:
    """Call `kind`, a dataclass or a function, with options by name.

    Args:
        kind: what is called. Its annotations are checked; `jetlit.values` has types with a range.
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
    for name, adapter in _adapters(kind).items():
        if name in options:
            try:
                adapter.validate_python(options[name], strict=True)
            except ValidationError as error:
                raise UserError(say_error(f"{label}: {name}", str(error)) or str(error)) from None
    return kind(**options)


def _adapters(kind: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    try:
        hints = get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):  # of somebody's own class, whose annotations name what is not there
        return {}
    found = {}
    for name, hint in hints.items():
        try:
            found[name] = TypeAdapter(hint)
        except PydanticSchemaGenerationError:  # a class that pydantic cannot check
            continue
    return found
