"""Constructor arguments in checkpoints, of which `load_from_checkpoint` builds a recipe again."""

import contextlib
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, Self


class KeepsArguments:
    """Keeps the constructor arguments that are plain data in `plain_arguments`.

    Plain data is what JSON can hold, with dataclasses as mappings and paths as strings. Lightning's own
    `save_hyperparameters` would copy models among the arguments, and pickle classes into checkpoints.
    """

    plain_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments; the constructor itself need not."""
        made = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(made, *args, **kwargs).arguments
        given |= given.pop("kwargs", {})  # of a subclass that passes them on
        made.plain_arguments = {}
        for name, value in given.items():
            with contextlib.suppress(TypeError):
                made.plain_arguments[name] = json.loads(json.dumps(value, default=_encode))
        return made


def _encode(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dataclasses.asdict(value)  # TypeError for any other object
