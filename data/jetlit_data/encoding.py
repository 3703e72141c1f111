"""Text to token ids, as text: whatever a text spells, no special token comes of it."""

import contextlib
import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from jetlit.errors import UserError
from jetlit_data.tokenizer import ByteTokenizer

_PART = 2**16  # characters encoded in one piece: a tokenizer needs some 200 bytes for each
_TOGETHER = 2**20  # characters encoded at once, spread over the tokenizer's threads
# Where a long text is cut: after a line, else before a word. Few tokenizers join what is before with what is after.
_CUTS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_HIDDEN = "\ufdd0hidden\ufdd1"  # begins a special token's name in `_text_backend`; both are no characters of any text


class TextEncoder(Protocol):
    """Encodes texts without special tokens."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, int32 [n]."""
        ...

    def encode_with_bounds(self, text: str, bounds: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return a text's ids and, for each bound in characters, how many tokens end and how many begin before it."""
        ...


@lru_cache(maxsize=8)
def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Return what encodes text with a tokenizer as text: special tokens that it spells are split like other words."""
    if isinstance(tokenizer, ByteTokenizer):
        return _ByteEncoder(tokenizer)
    if isinstance(tokenizer, TokenizersBackend):
        return _FastEncoder(tokenizer)
    return _SlowEncoder(tokenizer)


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[np.ndarray]:
    """Encode texts, each with EOS at the end and no other special token.

    Returns:
        An int32 array [n + 1] for each text.

    Raises:
        UserError: the tokenizer has no EOS token, or fails on a text.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f'The tokenizer "{tokenizer.name_or_path}" has no end-of-sequence token, which ends documents: '
            "set its eos_token and save it again."
        )
    eos = np.int32(tokenizer.eos_token_id)  # type: ignore[arg-type]
    return [np.append(ids, eos) for ids in text_encoder(tokenizer).encode(list(texts))]


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text: BOS, or none."""
    ids, text = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return ids[: next(start for start in range(len(ids) + 1) if ids[start : start + len(text)] == text)]


class _ByteEncoder:
    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._tokenizer.encode_array(text).astype(np.int32) for text in texts]

    def encode_with_bounds(self, text: str, bounds: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        counts = [len(self._tokenizer.encode_array(text[:bound])) for bound in bounds]
        return self._tokenizer.encode_array(text).tolist(), [(count, count) for count in counts]


class _FastEncoder:
    def __init__(self, tokenizer: TokenizersBackend) -> None:
        self._name = tokenizer.name_or_path
        self._backend = _text_backend(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        parts = [(number, *part) for number, text in enumerate(texts) for part in _parts(_valid(text))]
        found: list[list[np.ndarray]] = [[] for _ in texts]
        for group in _groups(parts):
            encodings = self._run([before + part for _, before, part in group])
            for (number, before, part), ids in zip(group, encodings, strict=True):
                found[number].append(ids if not before else self._after(before, part, ids))
        return [each[0] if len(each) == 1 else np.concatenate(each) for each in found]

    def encode_with_bounds(self, text: str, bounds: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        with _explained(self._name):
            encoding = self._backend.encode(_valid(text), add_special_tokens=False)
        starts = list(accumulate((start for start, _ in encoding.offsets), max))
        ends = list(accumulate((end for _, end in encoding.offsets), max))
        return list(encoding.ids), [(bisect_right(ends, bound), bisect_left(starts, bound)) for bound in bounds]

    def _run(self, texts: list[str]) -> list[np.ndarray]:
        with _explained(self._name):
            if len(texts) == 1:  # without threads, which a process that forks later should not have started
                encodings = [self._backend.encode(texts[0], add_special_tokens=False)]
            else:
                encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _after(self, before: str, part: str, ids: np.ndarray) -> np.ndarray:
        """Return the ids of a part from those of the part with the character before it.

        Encoded on its own it would begin as a text does, for SentencePiece with a space.
        """
        (known,) = self._run([before])
        if np.array_equal(ids[: len(known)], known):
            return ids[len(known) :]
        return self._run([part])[0]  # the text has no place to cut it


class _SlowEncoder:
    """For tokenizers in Python, SentencePiece's among them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(self._ids(text), dtype=np.int32) for text in texts]

    def encode_with_bounds(self, text: str, bounds: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self._ids(text)
        counts = []
        for bound in bounds:
            known = self._ids(text[:bound])
            shared = next((n for n, (one, other) in enumerate(zip(ids, known)) if one != other), len(known))
            counts.append((shared, min(shared + (shared < len(known)), len(ids))))
        return ids, counts

    def _ids(self, text: str) -> list[int]:
        with _explained(self._tokenizer.name_or_path):
            settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            return self._tokenizer(_valid(text), **settings)["input_ids"]


def _text_backend(tokenizer: TokenizersBackend) -> Tokenizer:
    """Return a copy of a tokenizer's backend that knows its special tokens by names that no text spells.

    The backend's own `encode_special_tokens` is not enough: Unigram and word models have special tokens in their
    vocabulary, and find them there.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in state["added_tokens"] if token["special"]} | {
        *tokenizer.all_special_tokens
    }
    state |= {"truncation": None, "padding": None, "post_processor": None}

    def hide(name: str) -> str:
        return _HIDDEN + name if name in special else name

    for token in state["added_tokens"]:
        token["special"] |= token["content"] in special
        token["content"] = hide(token["content"])
    model: dict[str, Any] = state["model"]
    if model.get("unk_token") is not None:
        model["unk_token"] = hide(model["unk_token"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide(name): number for name, number in model["vocab"].items()}
    else:  # Unigram
        model["vocab"] = [[hide(name), score] for name, score in model["vocab"]]
    if "merges" in model:
        pairs = (each.split(" ") if isinstance(each, str) else each for each in model["merges"])
        model["merges"] = [list(pair) for pair in pairs if special.isdisjoint((*pair, "".join(pair)))]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.encode_special_tokens = True
    return backend


def _valid(text: str) -> str:
    """Return a text without lone surrogates, which JSON may hold and UTF-8 cannot: U+FFFD stands for each."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of a long text, each with the character before it."""
    start = 0
    while len(text) - start > _PART:
        end = start + _PART
        # The last place of the first kind that has any in the part's second half.
        places = ([found.end() for found in cut.finditer(text, start + _PART // 2, end + 2)] for cut in _CUTS)
        end = next((found[-1] for found in places if found), end)
        yield text[start - 1 : start] if start else "", text[start:end]
        start = end
    yield text[start - 1 : start] if start else "", text[start:]


def _groups(parts: list[tuple[int, str, str]]) -> Iterator[list[tuple[int, str, str]]]:
    """Yield the parts in groups of about `_TOGETHER` characters."""
    group: list[tuple[int, str, str]] = []
    size = 0
    for part in parts:
        group.append(part)
        size += len(part[2])
        if size >= _TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what a tokenizer raises into a UserError. A pattern that explodes is a panic of Rust, no Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            f'The tokenizer "{name}" fails on this text ({reason}): leave that text out, or correct the pattern in its '
            "tokenizer.json."
        ) from error


_SAMPLE = (
    "The quick brown fox can't jump over 12,345.67 lazy dogs; don't you think?\n\n"
    "\tdef f(x: int) -> str:\n\t\treturn f'{x!r:>8}'  # Überraschung, señor\r\n"
    "日本語の文章 и русский текст, العربية, हिन्दी, 한국어 😀👩‍👩‍👧 <|x|> </s> [MASK]   \n  E=mc² ½ ﬁ Å"
)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what a tokenizer makes of text: its vocabulary, and the tokens of a sample.

    It holds no name, path or version, so that copies of a tokenizer are equal.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    (sample,) = text_encoder(tokenizer).encode([_SAMPLE])
    return hashlib.sha256(json.dumps([vocabulary, sample.tolist()]).encode()).hexdigest()
