"""Corpora: text of any source as chunks of tokens. Importing this brings no litdata; preparing and reading do."""

from jetlit_data.corpus import CorpusInfo, read_corpus
from jetlit_data.generators import Arithmetic, Recall, Repetition
from jetlit_data.prepare import CorpusSpec, prepare
from jetlit_data.sources import register_source
from jetlit_data.tokenizer import ByteTokenizer, check_vocabulary, load_tokenizer

__all__ = [
    "Arithmetic",
    "ByteTokenizer",
    "CorpusInfo",
    "CorpusSpec",
    "Recall",
    "Repetition",
    "check_vocabulary",
    "load_tokenizer",
    "prepare",
    "read_corpus",
    "register_source",
]
