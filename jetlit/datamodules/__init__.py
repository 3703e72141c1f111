"""Data modules: tokens streamed by litdata, weighted mixtures."""

from jetlit.datamodules.tokens import Corpus, TokenDataModule

__all__ = ["Corpus", "TokenDataModule"]
