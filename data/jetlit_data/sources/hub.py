"""Data sets of the Hugging Face hub as a source of text."""

from collections.abc import Iterator
from dataclasses import dataclass

from jetlit.errors import UserError
from jetlit_data.sources.base import register_source


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
    """

    name: str
    config: str | None = None
    split: str = "train"
    text_field: str = "text"
    data_files: str | None = None
    revision: str | None = None

    def size(self) -> None:
        """Return None: it is unknown before the data set is read."""

    def documents(self, seed: int) -> Iterator[str]:
        """Yield the text of every row, in the data set's own order."""
        try:
            from datasets import load_dataset
        except ImportError:
            raise UserError("Hub data sets need the library datasets: pip install 'jetlit[hub]'.") from None
        rows = load_dataset(
            self.name,
            self.config,
            split=self.split,
            data_files=self.data_files,
            revision=self.revision,
            streaming=True,
        )
        for row in rows:
            if not isinstance(row.get(self.text_field), str):
                columns = ", ".join(row)
                raise UserError(
                    f'Data set {self.name} has no text column "{self.text_field}": set text_field to one of {columns}.'
                )
            yield row[self.text_field]
