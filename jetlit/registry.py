"""Open tables: names to objects, which code outside of this project may add to."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from jetlit.errors import UserError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A table of names that other packages add to, by `register` or by an entry point.

    Entry points are loaded when a name is missing or the whole table is read: an extension costs nothing before.

    Args:
        kind: What an entry is, in the singular, for messages ("block").
        group: Entry point group that extends the table ("jetlit.blocks").
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T] = {}
        self._complete = group is None

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters what it decorates under `name`.

        Raises:
            UserError: Another object has this name.
        """

        def enter(entry: T) -> T:
            if self._entries.get(name, entry) is not entry:
                raise UserError(f"There is a {self.kind} {name!r} already: register yours under another name.")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._load_entry_points()
        return self._entries[name]

    def get_or_refuse(self, name: str) -> T:
        """Return the entry of that name.

        Raises:
            UserError: There is none; the message lists the names.
        """
        if name not in self:
            raise UserError(f"There is no {self.kind} {name!r}: use one of {', '.join(self)}.")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._entries)

    def _load_entry_points(self) -> None:
        if self._complete:
            return
        self._complete = True  # first, since an extension may read the table while it is loaded
        for point in entry_points(group=str(self.group)):
            if point.name not in self._entries:
                try:
                    self.register(point.name)(point.load())
                except Exception as error:
                    owner = point.dist.name if point.dist else point.value
                    warnings.warn(f"The {self.kind} {point.name!r} of {owner} cannot be loaded: {error}.", stacklevel=2)
