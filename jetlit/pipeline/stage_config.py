"""What the config dataclasses of all stages have in common."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from jetlit.values import check_values


class StageConfig:
    """A config dataclass in whose values `${name}` stands for the field of that name, `~/` for the home folder.

    Raises:
        UserError: a value is outside of its range (`jetlit.values`).
    """

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            setattr(self, field.name, self._filled(getattr(self, field.name)))
        check_values(type(self), vars(self))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            filled = re.sub(r"\$\{(\w+)\}", lambda found: str(getattr(self, found[1], found[0])), value)
            return os.path.expanduser(filled) if filled.startswith("~/") else filled
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{each.name: self._filled(getattr(value, each.name)) for each in fields(value)})
        return [self._filled(item) for item in value] if isinstance(value, list) else value

    def values(self) -> dict[str, Any]:
        """Return all that the stage's result depends on, JSON values only."""
        return asdict(self)  # type: ignore[call-overload]
