"""Settings from configuration files, checked against what takes them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jetlit.errors import UserError

T = TypeVar("T")


def build(kind: Callable[..., T], label: str, options: Mapping[str, Any]) -> T:
    """Call `kind`, a dataclass or a function, with options by name.

    Args:
        kind: what is called.
        label: what to call it in messages ('Source "hub"').
        options: the arguments.

    Raises:
        UserError: it takes no such option, or needs one that is not given.
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
    return kind(**options)
