"""Near-duplicates: documents that repeat paragraphs of earlier ones."""

import hashlib
import re
from collections.abc import Iterator

_SHORTEST = 40  # characters; shorter ones, such as headings, say nothing of a copy


class SeenParagraphs:
    """Remembers the paragraphs of admitted documents, letters and digits alone.

    Manuals repeat whole sections, and packages ship a text in several formats. Comparing whole documents sees neither.

    Args:
        limit: largest share of a document's text that may stand in earlier ones.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._seen: set[int] = set()

    def admit(self, text: str) -> bool:
        """Return whether the document is new, and remember its paragraphs if so."""
        hashes = dict(_paragraphs(text))
        known = sum(length for key, length in hashes.items() if key in self._seen)
        if known > self.limit * sum(hashes.values()):
            return False
        self._seen.update(hashes)
        return True


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield hash and length of each paragraph that is long enough."""
    for paragraph in re.split(r"\n\s*\n", text):
        letters = re.sub(r"\W+", "", paragraph).lower().encode("utf-8", "surrogatepass")
        if len(letters) >= _SHORTEST:
            digest = hashlib.blake2b(letters, digest_size=8).digest()
            yield int.from_bytes(digest), len(letters)
