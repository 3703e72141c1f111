"""What a task is: batches of teacher-forced answers, and how their scores are summed up."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jetlit.errors import UserError

IGNORED = -100
_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class TaskBatch:
    """Rows of tokens, right-padded, with one answer or more in each. A is the number of answers, N that of rows.

    Padding stands after every answer, and all mixers are causal, so that no attention mask is needed.

    Attributes:
        input_ids: int64 [N, T].
        labels: int64 [N, T], the token itself on answer tokens and −100 elsewhere; not shifted.
        answer: int64 [N, T], the number of the answer (0 to A − 1) a labelled token belongs to, −1 elsewhere.
        group: int64 [A], the question (multiple choice) or document (other tasks) of each answer, over the whole task.
        correct: bool [A], whether it is the right answer.
    """

    input_ids: Tensor
    labels: Tensor
    answer: Tensor
    group: Tensor
    correct: Tensor

    def to(self, device: torch.device | str) -> "TaskBatch":
        """The batch on another device."""
        return TaskBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def gather(self, hidden: Tensor) -> Tensor:
        """Hidden states at the positions that foretell answer tokens: [N, T, H] to [P, H], in row order."""
        return hidden[:, :-1][self.labels[:, 1:] != IGNORED]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, int64 [A]."""
        return torch.bincount(self.answer[self.answer >= 0], minlength=len(self.group))


@dataclass(frozen=True)
class Scores:
    """Scores of all answers of a task, batch after batch.

    Attributes:
        logprob: float32 [A], sum of the answer tokens' log-probabilities in nats.
        greedy: bool [A], whether every answer token is the most probable one.
        lengths, group, correct: as in `TaskBatch`.
    """

    logprob: Tensor
    greedy: Tensor
    lengths: Tensor
    group: Tensor
    correct: Tensor


@dataclass(frozen=True)
class TaskScore:
    """A task's result.

    Attributes:
        objective: what a search maximises.
        metrics: name to value; "…_stderr" is the standard error of "…".
    """

    objective: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Task:
    """Something a model is scored on.

    Attributes:
        name: of the task.
        objective_name: which of the metrics the objective is ("accuracy"), or "-loss".
        chance: accuracy of blind guessing.
        batches: the questions.
        summary: turns the scores of all answers into a `TaskScore`.
    """

    name: str
    objective_name: str
    chance: float
    batches: list[TaskBatch]
    summary: Callable[[Scores], TaskScore]

    def summarise(self, logprob: Tensor, greedy: Tensor) -> TaskScore:
        """Sum up the scores of all answers.

        Args:
            logprob: [A] of all batches, in order.
            greedy: bool [A] likewise.
        """
        gathered = {
            name: torch.cat([getattr(batch, name) for batch in self.batches]).cpu()
            for name in ("lengths", "group", "correct")
        }
        return self.summary(Scores(logprob=logprob.float().cpu(), greedy=greedy.cpu(), **gathered))

    @property
    def tokens(self) -> int:
        """Tokens a model has to read, padding included."""
        return sum(batch.input_ids.numel() for batch in self.batches)


@dataclass(frozen=True)
class Row:
    """Token ids of one row in pieces; some are answers.

    Attributes:
        pieces: token ids and whether they are an answer.
        group: question or document.
        correct: whether the row's answers are right ones.
    """

    pieces: list[tuple[list[int], bool]]
    group: int
    correct: bool = True

    @property
    def length(self) -> int:
        """Tokens in all."""
        return sum(len(ids) for ids, _ in self.pieces)


def make_batches(rows: list[Row], batch_tokens: int = _BATCH_TOKENS) -> list[TaskBatch]:
    """Rows of like length together, at most `batch_tokens` tokens to a batch, padding included.

    Raises:
        UserError: there is no row, or an answer has no token or nothing before it.
    """
    if not rows:
        raise UserError("A task has no questions: give it at least one.")
    for row in rows:
        if not row.pieces[0][0] or any(is_answer and not ids for ids, is_answer in row.pieces) or row.pieces[0][1]:
            raise UserError(f"Question {row.group + 1} of a task has an empty prompt or answer: fill or remove it.")
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.length):  # stable, so that the order is always the same
        if not batches or (len(batches[-1]) + 1) * row.length > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return [_pad(batch) for batch in batches]


def _pad(rows: list[Row]) -> TaskBatch:
    shape = (len(rows), max(row.length for row in rows))
    input_ids = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED)
    answer = torch.full(shape, -1)
    group: list[int] = []
    correct: list[bool] = []
    for number, row in enumerate(rows):
        start = 0
        for ids, is_answer in row.pieces:
            place = slice(start, start + len(ids))
            start += len(ids)
            input_ids[number, place] = torch.tensor(ids, dtype=torch.int64)
            if is_answer:
                labels[number, place] = input_ids[number, place]
                answer[number, place] = len(group)
                group.append(row.group)
                correct.append(row.correct)
    return TaskBatch(input_ids, labels, answer, torch.tensor(group), torch.tensor(correct))


def answer_scores(logits: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Score a batch's answers.

    Args:
        logits: [P, V] at the positions that foretell answer tokens, as `TaskBatch.gather` orders them.
        batch: whose answers they are.

    Returns:
        Log-probability float32 [A] of each answer in nats, and bool [A], whether greedy decoding would give it.
    """
    asked = batch.labels[:, 1:] != IGNORED
    targets = batch.labels[:, 1:][asked]
    answer = batch.answer[:, 1:][asked]
    token_logprob = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    logprob = torch.zeros(len(batch.group), device=logits.device).index_add_(0, answer, token_logprob)
    misses = torch.zeros(len(batch.group), dtype=torch.int64, device=logits.device)
    misses.index_add_(0, answer, (logits.argmax(-1) != targets).long())
    return logprob, misses == 0


@torch.no_grad()
def evaluate_task(model: nn.Module, task: Task) -> TaskScore:
    """Score a model on a task.

    Logits are computed at answer positions only.

    Args:
        model: a `JetNemotronForCausalLM` or `SuperNetwork` (its active path); set to evaluation and back.
        task: what to score it on.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        scores = [_batch_scores(model, batch.to(device)) for batch in task.batches]
    finally:
        model.train(was_training)
    return task.summarise(torch.cat([logprob for logprob, _ in scores]), torch.cat([greedy for _, greedy in scores]))


def _batch_scores(model: nn.Module, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    hidden = model.model(batch.input_ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return answer_scores(model.lm_head(batch.gather(hidden)), batch)  # type: ignore[operator]


def mean_with_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean of independent values and its standard error; the error of a single value counts as 0."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    if len(numbers) < 2:
        return float(numbers.mean()), 0.0
    return float(numbers.mean()), float(numbers.std() / math.sqrt(len(numbers)))
