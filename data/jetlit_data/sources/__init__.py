"""Sources of text: where the documents of a corpus come from."""

from jetlit_data.sources import debian, files, generated, hub  # noqa: F401 (they register themselves)
from jetlit_data.sources.base import SOURCES, Skipped, Source, open_source, register_source

__all__ = ["SOURCES", "Skipped", "Source", "open_source", "register_source"]
