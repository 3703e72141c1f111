"""Tokenizers: any of Hugging Face, or bytes, which need no download."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizer, PreTrainedTokenizerBase

from jetlit.errors import UserError

BYTE_VALUES = 256
_SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
_BYTE_TOKENS = [f"<0x{value:02X}>" for value in range(BYTE_VALUES)]
_TOKEN_IDS = {token: index for index, token in enumerate([*_BYTE_TOKENS, *_SPECIAL_TOKENS])}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class ByteTokenizer(PreTrainedTokenizer):
    """UTF-8 bytes as tokens: ids 0 to 255 are the bytes, 256 pad, 257 bos, 258 eos.

    `decode(encode(text)) == text` for any text, also one that spells "<eos>": text never becomes a special token.
    `encode` adds no special token. Bytes that are not valid UTF-8 decode to U+FFFD.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (transformers' own convention)

    def __init__(self, **kwargs: Any) -> None:
        pad, bos, eos = _SPECIAL_TOKENS
        settings = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "clean_up_tokenization_spaces": False}
        super().__init__(**{**settings, **kwargs})

    @property
    def vocab_size(self) -> int:
        """Return 259: the bytes, pad, bos and eos."""
        return len(_TOKEN_IDS)

    def get_vocab(self) -> dict[str, int]:
        """Return token names ("<0x41>" for the byte 65) and their ids."""
        return dict(_TOKEN_IDS)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Return the names of the text's UTF-8 bytes."""
        return [_BYTE_TOKENS[value] for value in _to_bytes(text)]

    def encode_array(self, text: str) -> np.ndarray:
        """Return the ids of the text's bytes, uint8 [n]: much faster than `encode`, for preparing corpora."""
        return np.frombuffer(_to_bytes(text), dtype=np.uint8)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.tokenize(text)

    def _convert_token_to_id(self, token: str) -> int | None:
        return _TOKEN_IDS.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return _BYTE_TOKENS[index] if index < BYTE_VALUES else _SPECIAL_TOKENS[index - BYTE_VALUES]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join and decode bytes. Special tokens between them are spelled out."""
        data = bytearray()
        for token in tokens:
            match = _BYTE_TOKEN.fullmatch(token)
            data.extend(bytes([int(match[1], 16)]) if match else token.encode())
        return _to_text(bytes(data))

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Save nothing: the vocabulary is the class."""
        return ()


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # json.loads may give a lone surrogate


def _to_text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


class _ByteTokenizerConfig(PreTrainedConfig):
    """A configuration of no model: AutoTokenizer registers tokenizers by configuration."""

    model_type = "jetlit_bytes"


AutoTokenizer.register(_ByteTokenizerConfig, ByteTokenizer, exist_ok=True)


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        name_or_path: "bytes" for `ByteTokenizer`, or a folder or hub name for `AutoTokenizer`.

    Raises:
        UserError: there is no tokenizer.
    """
    if name_or_path == "bytes":
        return ByteTokenizer()
    path = Path(name_or_path).expanduser()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # the library `tokenizers` raises nothing more special
        raise _no_tokenizer(path) from error
    # Without files transformers makes an empty tokenizer of the model's family.
    own = set(tokenizer.get_vocab()) - {*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}
    if not own:
        raise _no_tokenizer(path)
    return tokenizer


def _no_tokenizer(path: Path) -> UserError:
    return UserError(
        f"There is no tokenizer at {path}: give a folder that holds tokenizer.json, a name on the hub that can be "
        'reached, or "bytes".'
    )


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return one more than the tokenizer's largest id (`len(tokenizer)` is too small if ids have gaps)."""
    return max(tokenizer.get_vocab().values()) + 1


def check_vocabulary(tokenizer: PreTrainedTokenizerBase | int, model_vocabulary: int, model: str = "the model") -> None:
    """Refuse a tokenizer with ids beyond the model's embedding.

    Args:
        tokenizer: the tokenizer, or the size of its vocabulary (from corpus.json).
        model_vocabulary: rows of the model's embedding. More rows than tokens are fine (padded vocabularies).
        model: name of the model in the message.

    Raises:
        UserError: the tokenizer has more tokens than the model has rows.
    """
    size = tokenizer if isinstance(tokenizer, int) else vocabulary_size(tokenizer)
    if size > model_vocabulary:
        raise UserError(
            f"The tokenizer has {size} tokens but {model} has room for {model_vocabulary}: "
            "prepare the data with the tokenizer that belongs to the model."
        )
