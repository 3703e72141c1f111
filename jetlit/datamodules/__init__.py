"""Data modules: litdata streaming tokens, weighted mixtures."""

from jetlit.datamodules.tokens import TokenDataModule

__all__ = ["TokenDataModule"]
