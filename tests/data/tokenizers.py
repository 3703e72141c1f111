"""Small tokenizers of every kind, trained on a few sentences: bytes, byte-level BPE, SentencePiece's two, words."""

from functools import cache

from jetlit_data import ByteTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The capital of France is Paris. Answer: Paris, and the river is the Seine; 12 + 30 = 42.",
    "def answer(question: str) -> str:\n    return question.split()[-1]  # the last word\n\n\n",
    "u M x K q B u M the river is golden. So the garden is hollow. É naïve café 日本語",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<filename>"]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _sentencepiece_bpe() -> Tokenizer:
    """As Llama 2's: a space before the text, bytes for what is unknown, BOS in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    single_bytes = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(single_bytes)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return tokenizer


KINDS = {"byte_level": _byte_level, "unigram": _unigram, "sentencepiece_bpe": _sentencepiece_bpe, "words": _words}


@cache
def tokenizer_of(kind: str):
    """Return a tokenizer of `KINDS`, or "bytes". "<think>" is a token that is not special, as Qwen3 has it."""
    if kind == "bytes":
        return ByteTokenizer()
    backend = KINDS[kind]()
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=["<filename>"], **names)
