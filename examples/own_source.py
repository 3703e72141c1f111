"""A source of text of your own: register it, and prepare a corpus of it."""

import tempfile
from dataclasses import dataclass

from jetlit_data import CorpusSpec, prepare, register_source


@register_source("countdown")
@dataclass(frozen=True)
class Countdown:
    """Documents that count down."""

    start: int = 100

    def documents(self, seed):
        """Yield texts; the seed decides what is free, such as their order."""
        return (f"{number} comes before {number - 1}." for number in range(self.start, 0, -1))

    def size(self):
        """Return the bytes of text for the progress bar; None means unknown."""
        return None


def main():
    """Prepare a corpus in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        corpora = {"numbers": CorpusSpec("countdown", max_tokens=5000, options={"start": 500})}
        info = prepare(folder, corpora, "bytes", 0.1, 4096, 0)["numbers"]
        print({split: content.tokens for split, content in info.splits.items()})


if __name__ == "__main__":
    main()
