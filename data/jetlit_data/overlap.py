"""Near-duplicates: documents much of whose text stands in earlier ones, paragraph by paragraph."""

import hashlib
import re
from collections.abc import Iterator

_SHORTEST = 40  # characters; headings and the like say nothing of a copy


class SeenParagraphs:
    """Remembers the paragraphs of the documents it let through.

    Manuals repeat whole sections, and packages ship one text in several formats; exact comparison of documents sees
    neither. Of a paragraph only letters and digits are compared.

    Args:
        limit: the largest share of a document's text that may have been seen.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._seen: set[int] = set()

    def admit(self, text: str) -> bool:
        """Whether the document is new; its paragraphs are remembered if so."""
        hashes = dict(_paragraphs(text))
        known = sum(length for key, length in hashes.items() if key in self._seen)
        if known > self.limit * sum(hashes.values()):
            return False
        self._seen.update(hashes)
        return True


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """A hash and the length of each paragraph that is long enough to tell."""
    for paragraph in re.split(r"\n\s*\n", text):
        letters = re.sub(r"\W+", "", paragraph).lower().encode("utf-8", "surrogatepass")
        if len(letters) >= _SHORTEST:
            digest = hashlib.blake2b(letters, digest_size=8).digest()
            yield int.from_bytes(digest), len(letters)
