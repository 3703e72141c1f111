"""Teacher-forced answers: texts to rows, rows to batches, logits to scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jetlit_data.encoding import leading_tokens, text_encoder
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """One row of a task.

    Attributes:
        pieces: token ids, and whether they are an answer. The first piece is not.
        group: number of the question or document.
        correct: whether the row's answers are right.
    """

    pieces: list[tuple[list[int], bool]]
    group: int
    correct: bool = True

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self.pieces)


@dataclass(frozen=True)
class TaskBatch:
    """N right-padded rows with A answers in all, at least one in each row.

    Padding follows the answers and every token mixer is causal, so no attention mask is needed.

    Attributes:
        input_ids: int64 [N, T].
        labels: int64 [N, T], the token itself on answer tokens and -100 elsewhere; not shifted.
        answer: int64 [N, T], number of the answer (0 to A - 1) that a token belongs to, -1 elsewhere.
        group: int64 [A], number of each answer's question or document in the whole task.
        correct: bool [A], whether the answer is right.
    """

    input_ids: Tensor
    labels: Tensor
    answer: Tensor
    group: Tensor
    correct: Tensor

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Return the batch on another device."""
        return TaskBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def gather(self, hidden: Tensor) -> Tensor:
        """Select the hidden states that predict answer tokens: [N, T, H] to [P, H], in row order."""
        return hidden[:, :-1][self.labels[:, 1:] != IGNORED]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, int64 [A]."""
        return torch.bincount(self.answer[self.answer >= 0], minlength=len(self.group))


def encode_row(
    tokenizer: PreTrainedTokenizerBase, spans: Sequence[tuple[str, bool]], group: int, correct: bool = True
) -> Row:
    """Encode a text in which answers stand as one text, as corpora are encoded.

    A token that holds part of an answer belongs to it, as " Paris" does after "Answer: ". BOS comes first if the
    tokenizer adds it. No other special token occurs, whatever the text spells.

    Args:
        tokenizer: the model's.
        spans: the pieces of the text in order, and whether they are an answer.
        group: see `Row`.
        correct: see `Row`.
    """
    bounds = [0, *accumulate(len(text) for text, _ in spans)]
    ids, counts = text_encoder(tokenizer).encode_with_bounds("".join(text for text, _ in spans), bounds)
    pieces: list[tuple[list[int], bool]] = [(leading_tokens(tokenizer), False)]
    done = 0
    for (text, is_answer), (first, _), (_, last) in zip(spans, counts, counts[1:]):
        if not is_answer:
            continue
        pieces.append((ids[done:first], False))
        done = max(done, first)
        last = max(last, done) if text else done
        pieces.append((ids[done:last], True))
        done = last
    pieces.append((ids[done:], False))
    first_piece = pieces.pop(0)[0] + pieces.pop(0)[0]
    return Row([(first_piece, False), *pieces], group, correct)


def make_batches(rows: list[Row], batch_tokens: int = 8192) -> list[TaskBatch]:
    """Batch the rows of a task by length, with at most `batch_tokens` tokens in a batch of several, padding included.

    Raises:
        UserError: there is no row, or a prompt or an answer is empty.
    """
    if not rows:
        raise UserError("A task has no questions: give it at least one.")
    for row in rows:
        if not row.pieces[0][0] or any(is_answer and not ids for ids, is_answer in row.pieces) or row.pieces[0][1]:
            raise UserError(f"Question {row.group + 1} of a task has an empty prompt or answer: fill or remove it.")
    batches: list[list[Row]] = []
    for row in sorted(rows, key=len):  # stable: the order is always the same
        if not batches or (len(batches[-1]) + 1) * len(row) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return [_pad(batch) for batch in batches]


def _pad(rows: list[Row]) -> TaskBatch:
    tokens, answers = [], []
    owners: list[Row] = []  # the row of each answer
    for row in rows:
        numbers: list[int] = []
        for ids, is_answer in row.pieces:
            numbers += [len(owners) if is_answer else -1] * len(ids)
            owners += [row] * is_answer
        tokens.append(torch.tensor([token for ids, _ in row.pieces for token in ids]))
        answers.append(torch.tensor(numbers))
    input_ids, answer = pad_sequence(tokens, True), pad_sequence(answers, True, padding_value=-1)
    group = torch.tensor([row.group for row in owners])
    correct = torch.tensor([row.correct for row in owners])
    return TaskBatch(input_ids, input_ids.where(answer >= 0, IGNORED), answer, group, correct)


def answer_scores(logits: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Score a batch's answers from logits [P, V] at the positions that `TaskBatch.gather` selects.

    Returns:
        Log-probability of each answer in nats, float32 [A], and whether greedy decoding gives it, bool [A].
    """
    predicted = batch.labels[:, 1:] != IGNORED
    targets = batch.labels[:, 1:][predicted]
    answer = batch.answer[:, 1:][predicted]
    token_logprob = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    logprob = torch.zeros(len(batch.group), device=logits.device).index_add_(0, answer, token_logprob)
    misses = torch.zeros(len(batch.group), dtype=torch.int64, device=logits.device)
    misses.index_add_(0, answer, (logits.argmax(-1) != targets).long())
    return logprob, misses == 0


def score_batch(model: Any, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return `answer_scores` of a model, which computes logits at answer tokens alone."""
    hidden = model.model(batch.input_ids, use_cache=False).last_hidden_state
    return answer_scores(model.lm_head(batch.gather(hidden)), batch)
