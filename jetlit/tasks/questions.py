"""Questions of JSONL files: exact answers and multiple choice."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from jetlit_data.sources.reading import decode
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.tasks.base import Task, register_task, summarize_answers, summarize_choices
from jetlit.tasks.batches import Row, encode_row, make_batches
from jetlit.values import Count


@register_task("exact_answer")
@dataclass(frozen=True)
class ExactAnswer:
    """Questions of a JSONL file with lines {"prompt": ..., "answer": ...}; see `read_records` for path and limit."""

    path: str
    limit: Count | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, answer = record.get("prompt"), record.get("answer")
            if not isinstance(prompt, str) or not isinstance(answer, str):
                raise UserError(f'{where} needs a text under "prompt" and one under "answer".')
            rows.append(_row(tokenizer, prompt, answer, number))
        return Task(name, "accuracy", 0.0, make_batches(rows), summarize_answers)


@register_task("multiple_choice")
@dataclass(frozen=True)
class MultipleChoice:
    """Questions of a JSONL file with lines {"prompt": ..., "choices": [...], "answer": index of the right choice}.

    See `read_records` for path and limit.
    """

    path: str
    limit: Count | None = None

    def build(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Task:
        """Return the task."""
        rows: list[Row] = []
        chances = []
        for number, (record, where) in enumerate(read_records(self.path, self.limit)):
            prompt, choices, right = record.get("prompt"), record.get("choices"), record.get("answer")
            if not isinstance(prompt, str):
                raise UserError(f'{where} needs a text under "prompt".')
            if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) for text in choices):
                raise UserError(f'{where} needs a list of two texts or more under "choices".')
            if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
                raise UserError(f'{where} needs under "answer" the index of the right choice, 0 to {len(choices) - 1}.')
            chances.append(1 / len(choices))
            rows += [_row(tokenizer, prompt, text, number, index == right) for index, text in enumerate(choices)]
        batches = make_batches(rows)
        return Task(name, "-loss", sum(chances) / len(chances), batches, summarize_choices)


def _row(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, number: int, correct: bool = True) -> Row:
    """Return a row, with a space between prompt and answer if neither has one there."""
    space = " " if prompt and answer and not prompt[-1].isspace() and not answer[0].isspace() else ""
    return encode_row(tokenizer, [(prompt, False), (space + answer, True)], number, correct)


def read_records(path: str, limit: int | None) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each object of a JSONL file, and its place for messages.

    Args:
        path: a file, or the name of one that the package brings, such as "general_knowledge".
        limit: largest number of objects.

    Raises:
        UserError: there is no such file, it is not UTF-8 text, or a line is not a JSON object.
    """
    packaged = Path(str(resources.files("jetlit.tasks"))) / "data"
    file = next((file for file in (Path(path).expanduser(), packaged / f"{path}.jsonl") if file.is_file()), None)
    if file is None:
        names = ", ".join(sorted(file.stem for file in packaged.glob("*.jsonl")))
        raise UserError(f'There is no task file "{path}": give the path of a JSONL file, or one of {names}.')
    text = decode(file.read_bytes(), "utf-8")
    if text is None:
        raise UserError(f"The task file {file} is not UTF-8 text: save it in UTF-8.")
    lines = enumerate(text.split("\n"), start=1)
    for number, line in islice(((number, line) for number, line in lines if line.strip()), limit):
        where = f"{file}, line {number},"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UserError(f"{where} is not valid JSON ({reason}): correct or remove it.") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} is not a JSON object: write one question a line.")
        yield record, where
