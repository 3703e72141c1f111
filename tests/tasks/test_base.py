import math

import pytest
import torch
from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.models import SuperNetwork
from jetlit.tasks import Row, answer_scores, build_task, evaluate_task, make_batches
from tests.tasks.models import VOCABULARY, Oracle, random_model

TOKENIZER = load_tokenizer("bytes")


def random_rows(count=11, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(longest):
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(VOCABULARY, (length,), generator=generator).tolist()

    return [
        Row([(ids(9), False), (ids(3), True), (ids(5), False), (ids(4), True)][: 2 + 2 * (n % 2)], group=n // 2)
        for n in range(count)
    ]


@torch.no_grad()
def slow_scores(model, row):
    """Log-probability and greedy match of each answer of a row alone, token by token, in float64."""
    tokens = [token for piece, _ in row.pieces for token in piece]
    logits = model.double()(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    scores, start = [], 0
    for piece, is_answer in row.pieces:
        places = range(start, start + len(piece))
        start += len(piece)
        if is_answer:
            logprob = sum(float(logits[place - 1].log_softmax(-1)[tokens[place]]) for place in places)
            scores.append((logprob, all(int(logits[place - 1].argmax()) == tokens[place] for place in places)))
    return scores


def scores_by_answer(model, batches):
    """(group, tokens of the answer) to scores, through the batched path."""
    found = {}
    for batch in batches:
        hidden = model.model(batch.input_ids, use_cache=False).last_hidden_state
        logprob, greedy = answer_scores(model.lm_head(batch.gather(hidden)), batch)
        for number in range(len(batch.group)):
            tokens = tuple(batch.labels[batch.answer == number].tolist())
            found[int(batch.group[number]), tokens] = (float(logprob[number]), bool(greedy[number]))
    return found


@pytest.mark.parametrize("layer_types", [("attn", "attn"), ("attn", "gla")])
@pytest.mark.parametrize("batch_tokens", [1, 50, 8192])
@torch.no_grad()
def test_batched_scores_are_those_of_each_row_alone(layer_types, batch_tokens):
    model, rows = random_model(layer_types), random_rows()
    found = scores_by_answer(model, make_batches(rows, batch_tokens))
    count = 0
    for row in rows:
        answers = [piece for piece, is_answer in row.pieces if is_answer]
        for piece, (logprob, greedy) in zip(answers, slow_scores(random_model(layer_types), row), strict=True):
            count += 1
            assert found[row.group, tuple(piece)][0] == pytest.approx(logprob, abs=1e-3)
            assert found[row.group, tuple(piece)][1] == greedy
    assert count == len(found) == 16


def test_batches_keep_to_their_size_and_hold_like_lengths():
    batches = make_batches(random_rows(40), batch_tokens=60)
    assert all(batch.input_ids.numel() <= 60 for batch in batches)
    lengths = [batch.input_ids.shape[1] for batch in batches]
    assert lengths == sorted(lengths) and sum(len(batch.input_ids) for batch in batches) == 40


def test_lengths_count_the_tokens_of_each_answer():
    (batch,) = make_batches([Row([([1], False), ([2, 3], True), ([4], False), ([5], True)], 0)])
    assert batch.lengths.tolist() == [2, 1]
    assert batch.labels.tolist() == [[-100, 2, 3, -100, 5]]


@pytest.mark.parametrize(
    "pieces", [[([], False), ([1], True)], [([1], False), ([], True)], [([1], True)]], ids=["prompt", "answer", "start"]
)
def test_an_empty_prompt_or_answer_is_refused(pieces):
    with pytest.raises(UserError, match="Question 3 of a task has an empty prompt or answer"):
        make_batches([Row(pieces, 2)])


def test_a_task_without_questions_is_refused():
    with pytest.raises(UserError, match="no questions"):
        make_batches([])


SPECS = [
    {"kind": "recall", "pairs": 6, "queries": 9, "documents": 5},
    {"kind": "recall", "style": "words", "pairs": 4, "queries": 4, "documents": 3},
    {"kind": "arithmetic", "documents": 4},
    {"kind": "exact_answer", "path": "short_answers"},
    {"kind": "multiple_choice", "path": "general_knowledge", "limit": 6},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec['kind']}-{spec.get('style', '')}")
def test_one_who_sees_the_future_is_right_and_one_who_always_errs_is_wrong(spec):
    task = build_task(spec, TOKENIZER)
    right = evaluate_task(Oracle(), task)
    assert right.metrics["loss"] == pytest.approx(0.0, abs=1e-5)
    wrong = evaluate_task(Oracle(shift=1), task)
    assert wrong.metrics["loss"] == pytest.approx(20.0, rel=1e-3)
    if task.objective_name == "accuracy":
        assert (right.objective, wrong.objective) == (1.0, 0.0)
        assert right.metrics["accuracy_stderr"] == 0.0


def test_evaluation_leaves_the_model_in_training_mode_and_needs_no_gradient():
    model = random_model().train()
    task = build_task(SPECS[0], TOKENIZER)
    evaluate_task(model, task)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_a_super_network_is_scored_on_its_active_path():
    supernet = SuperNetwork(random_model(("attn", "attn")), alternatives=("gla",))
    task = build_task(SPECS[2], TOKENIZER)
    paths = [["attn", "attn"], ["gla", "attn"], ["gla", "gla"]]
    losses = []
    for path in paths:
        supernet.set_active_subnet(path)
        losses.append(evaluate_task(supernet, task).metrics["loss"])
        assert evaluate_task(supernet.extract(path), task).metrics["loss"] == pytest.approx(losses[-1], abs=1e-5)
    assert len({round(loss, 4) for loss in losses}) == 3
    assert all(math.isfinite(loss) for loss in losses)
