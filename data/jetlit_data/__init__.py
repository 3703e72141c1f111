"""Preparing corpora into litdata token chunks."""

from jetlit_data.arithmetic import Arithmetic
from jetlit_data.corpus import CorpusInfo, read_corpus
from jetlit_data.prepare import CorpusSpec, prepare
from jetlit_data.recall import Recall
from jetlit_data.repetition import Repetition
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
]
