"""Text to token ids, and questions from JSONL files."""

import json
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of the beginning of a row: with BOS where the tokenizer puts one, never with EOS."""
    ids = tokenizer(text)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str | None = None) -> list[int]:
    """Ids of what follows; with `prompt`, a space goes between where neither side has one."""
    if prompt and text and not prompt[-1].isspace() and not text[0].isspace():
        text = " " + text
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def read_records(path: str, limit: int | None) -> Iterator[tuple[dict[str, Any], str]]:
    """Objects of a JSONL file, each with the place it came from for messages.

    Args:
        path: a file, or the name of one of the package's own, such as "general_knowledge".
        limit: at most this many.

    Raises:
        UserError: there is no such file, or a line is not a JSON object.
    """
    return islice(_records(_find(path)), limit)


def _find(path: str) -> Path:
    packaged = Path(str(resources.files("jetlit.tasks"))) / "data"
    for candidate in (Path(path), packaged / f"{path}.jsonl"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in packaged.glob("*.jsonl")))
    raise UserError(f'There is no task file "{path}": give the path of a JSONL file, or one of {names}.')


def _records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number},"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON ({error.msg}): correct or remove it.") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} is not a JSON object: write one question a line.")
        yield record, where
