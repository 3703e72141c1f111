"""Data sets of the Hugging Face hub as a source of text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jetlit.errors import UserError
from jetlit_data.sources.base import Skipped, register_source


@register_source("hub")
@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub, streamed through the optional library `datasets`.

    Attributes:
        name: name of the data set ("hub:NAME"), or of a builder such as "json".
        config: its configuration, if it has several.
        split: the split to read.
        text_field: the column that holds the text.
        data_files: files for a builder.
        revision: a commit or tag, so that the corpus can be reproduced.
        skipped: what the last pass left out.
    """

    name: str
    config: str | None = None
    split: str = "train"
    text_field: str = "text"
    data_files: str | None = None
    revision: str | None = None
    skipped: Skipped = field(default_factory=Skipped, init=False, compare=False)

    def size(self) -> None:
        """Return None: it is unknown before the data set is read."""

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the text of every row, in the data set's own order."""
        try:
            from datasets import load_dataset
        except ImportError:
            raise UserError("Hub data sets need the library datasets: pip install 'jetlit[hub]'.") from None
        self.skipped.clear()
        try:
            rows = load_dataset(
                self.name,
                self.config,
                split=self.split,
                data_files=self.data_files,
                revision=self.revision,
                streaming=True,
            )
            for number, row in enumerate(rows, start=1):
                text = self._text_of(row)
                if text is None:
                    self.skipped.add("rows without a text", f"{self.name}, row {number}")
                else:
                    yield text
        except UserError:
            raise
        except Exception as error:  # of the hub, of its client, of HTTP, of each builder: they have no common class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"Data set {self.name} could not be read ({reason}): correct its name, config and split, check the "
                "connection to the hub, or give a folder with a copy as the source."
            ) from error

    def _text_of(self, row: dict[str, Any]) -> str | None:
        if self.text_field not in row:
            columns = ", ".join(row)
            raise UserError(
                f'Data set {self.name} has no text column "{self.text_field}": set text_field to one of {columns}.'
            )
        text = row[self.text_field]
        return text if isinstance(text, str) else None
