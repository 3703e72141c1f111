"""Questions of JSONL files: exact answers and multiple choice."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Task, summarize_answers, summarize_choices
from jetlit.tasks.batches import Row, encode_answer, encode_prompt, make_batches
from jetlit.tasks.registry import register_task


@register_task("exact_answer")
@dataclass(frozen=True)
class ExactAnswer:
    """Questions of a JSONL file with lines {"prompt": ..., "answer": ...}.

    Attributes:
        path: the file, or the name of one that the package brings.
        limit: ask only the first `limit` questions.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, answer = record.get("prompt"), record.get("answer")
            if not isinstance(prompt, str) or not isinstance(answer, str):
                raise UserError(f'{where} needs a text under "prompt" and one under "answer".')
            pieces = [(encode_prompt(tokenizer, prompt), False), (encode_answer(tokenizer, answer, prompt), True)]
            rows.append(Row(pieces, number))
        return Task(name, "accuracy", 0.0, make_batches(rows), summarize_answers)


@register_task("multiple_choice")
@dataclass(frozen=True)
class MultipleChoice:
    """Questions of a JSONL file with lines {"prompt": ..., "choices": [...], "answer": index of the right choice}.

    Attributes:
        path: the file, or the name of one that the package brings.
        limit: ask only the first `limit` questions.
    """

    path: str
    limit: int | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows: list[Row] = []
        chances = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, choices, right = _choices(record, where)
            chances.append(1 / len(choices))
            context = encode_prompt(tokenizer, prompt)
            for index, choice in enumerate(choices):
                pieces = [(context, False), (encode_answer(tokenizer, choice, prompt), True)]
                rows.append(Row(pieces, number, correct=index == right))
        batches = make_batches(rows)
        return Task(name, "-loss", sum(chances) / len(chances), batches, summarize_choices)


def _choices(record: dict, where: str) -> tuple[str, list[str], int]:
    prompt, choices, right = record.get("prompt"), record.get("choices"), record.get("answer")
    if not isinstance(prompt, str):
        raise UserError(f'{where} needs a text under "prompt".')
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f'{where} needs a list of two texts or more under "choices".')
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise UserError(f'{where} needs under "answer" the index of the right choice, 0 to {len(choices) - 1}.')
    return prompt, choices, right


def read_records(path: str, limit: int | None) -> Iterator[tuple[dict[str, Any], str]]:
    """Read a JSONL file: each object, and its place for messages.

    Args:
        path: a file, or the name of one that the package brings, such as "general_knowledge".
        limit: largest number of objects.

    Raises:
        UserError: there is no such file, a line is not a JSON object, or the limit is negative.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: give a positive number of questions, or null for all.")
    packaged = Path(str(resources.files("jetlit.tasks"))) / "data"
    file = next((file for file in (Path(path), packaged / f"{path}.jsonl") if file.is_file()), None)
    if file is None:
        names = ", ".join(sorted(file.stem for file in packaged.glob("*.jsonl")))
        raise UserError(f'There is no task file "{path}": give the path of a JSONL file, or one of {names}.')
    return islice(_records(file), limit)


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
