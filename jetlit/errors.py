"""The one exception whose message is meant for a person, not for a traceback."""

from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """Something the user can mend: the message is one sentence saying what is wrong and how to mend it.

    The command line prints the message alone and exits with status 2; library callers catch it as a `ValueError`.
    """


def moved_names(module: str, names: dict[str, str]) -> Callable[[str], NoReturn]:
    """Return a module's `__getattr__` that says where each old name went.

    Args:
        module: name of the module.
        names: old name -> the end of its sentence ("is load_model now").
    """

    def getattr_(name: str) -> NoReturn:
        if name in names:
            raise ImportError(f"{module}.{name} {names[name]}.")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_
