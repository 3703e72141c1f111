import json

import pytest
import torch
from jetlit_data import CorpusSpec, Recall, load_tokenizer, prepare
from jetlit_data.reading import open_split

from jetlit.errors import UserError
from jetlit.tasks import TASKS, build_task, evaluate_task
from jetlit.tasks.base import Scores, summarize_answers, summarize_choices
from tests.data.tokenizers import tokenizer_of
from tests.tasks.models import Oracle, random_model

TOKENIZER = load_tokenizer("bytes")


def rows_of(task):
    return [
        (bytes(row[row != 0].tolist()).decode(), bytes(row[labels != -100].tolist()).decode())
        for batch in task.batches
        for row, labels in zip(batch.input_ids, batch.labels)
    ]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_multiple_choice_sums_up_as_by_hand():
    scores = Scores(
        logprob=torch.tensor([-1.0, -2.0, -9.0, -6.0, -4.0]),
        greedy=torch.zeros(5, dtype=torch.bool),
        lengths=torch.tensor([1, 4, 3, 1, 2]),
        group=torch.tensor([0, 0, 1, 1, 1]),
        correct=torch.tensor([False, True, True, False, False]),
    )
    score = summarize_choices(scores)
    # right answers: −2 over 4 tokens, −9 over 3 tokens; question 0 is won per token only, question 1 not at all
    assert score.objective == pytest.approx(-(0.5 + 3.0) / 2)
    assert score.metrics["loss"] == pytest.approx(1.75)
    assert score.metrics["loss_stderr"] == pytest.approx(1.25)
    assert (score.metrics["accuracy"], score.metrics["accuracy_norm"]) == (0.0, 0.5)
    assert score.metrics["accuracy_norm_stderr"] == pytest.approx(0.5)


def test_exact_answers_sum_up_with_errors_between_documents():
    scores = Scores(
        logprob=torch.tensor([-1.0, -3.0, -4.0, -2.0]),
        greedy=torch.tensor([True, False, True, True]),
        lengths=torch.tensor([1, 1, 2, 1]),
        group=torch.tensor([0, 0, 1, 1]),
        correct=torch.ones(4, dtype=torch.bool),
    )
    score = summarize_answers(scores)
    assert score.objective == score.metrics["accuracy"] == pytest.approx(0.75)
    assert score.metrics["accuracy_stderr"] == pytest.approx(0.25)  # documents: 0.5 and 1.0
    assert score.metrics["loss"] == pytest.approx(2.0) and score.metrics["loss_stderr"] == pytest.approx(0.0)


def test_questions_of_a_file_become_rows_with_one_space_between(tmp_path):
    path = write_lines(
        tmp_path / "q.jsonl",
        [
            {"prompt": "Water is", "choices": ["wet", " dry"], "answer": 0},
            {"prompt": "x =\n", "choices": ["1", "2"], "answer": 1},
        ],
    )
    task = build_task({"kind": "multiple_choice", "name": "mine", "path": path}, TOKENIZER)
    assert sorted(rows_of(task)) == [
        ("Water is dry", " dry"),
        ("Water is wet", " wet"),
        ("x =\n1", "1"),
        ("x =\n2", "2"),
    ]
    assert (task.name, task.objective_name, task.chance) == ("mine", "-loss", 0.5)


def test_exact_answers_of_a_file(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", [{"prompt": "1+1=", "answer": "2"}, {"prompt": "a", "answer": "b"}])
    task = build_task({"kind": "exact_answer", "path": path, "limit": 1}, TOKENIZER)
    assert rows_of(task) == [("1+1= 2", " 2")]


def test_recall_tasks_are_the_generator_s_documents_with_every_query_asked():
    task = build_task({"kind": "recall", "pairs": 5, "queries": 7, "documents": 4, "seed": 3}, TOKENIZER)
    assert len(rows_of(task)) == 4 and sum(len(batch.group) for batch in task.batches) == 4 * 7
    expected = ["".join(s.text for s in spans) for spans, _ in zip(Recall(5, 7).documents(3, "task"), range(4))]
    assert [text for text, _ in rows_of(task)] == expected
    assert task.chance == 1 / 26 and task.objective_name == "accuracy"


def test_arithmetic_answers_are_all_digits_of_the_results():
    task = build_task({"kind": "arithmetic", "documents": 2}, TOKENIZER)
    for text, answers in rows_of(task):
        assert answers == "".join(problem.split("=")[1] for problem in text.rstrip(";").split(";"))


def test_a_random_model_is_at_chance():
    task = build_task({"kind": "multiple_choice", "path": "python_code"}, TOKENIZER)
    score = evaluate_task(random_model(), task)
    assert abs(score.metrics["accuracy"] - task.chance) < 4 * score.metrics["accuracy_stderr"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    prepare(str(folder), {"stdlib": CorpusSpec("stdlib", 400_000)}, val_fraction=0.3, progress=False)
    return str(folder / "stdlib")


def test_continuations_are_real_and_the_wrong_ones_come_from_elsewhere(corpus):
    spec = {"kind": "continuation", "corpus": corpus, "questions": 20, "context": 24, "length": 8}
    task = build_task(spec, TOKENIZER)
    blocks = [tuple(block["input_ids"].tolist()) for block in open_split(corpus, "val", 32, shuffle=False)]
    endings = {block[24:] for block in blocks}
    questions = {}
    for batch in task.batches:
        for row, group, correct in zip(batch.input_ids.tolist(), batch.group.tolist(), batch.correct.tolist()):
            assert (tuple(row) in blocks) == correct and tuple(row[24:]) in endings and 258 not in row
            questions.setdefault(group, []).append((tuple(row[:24]), tuple(row[24:]), correct))
    assert len(questions) == 20
    for rows in questions.values():
        assert len({row[0] for row in rows}) == 1 and len({row[1] for row in rows}) == 4
        assert sum(row[2] for row in rows) == 1
    assert task.chance == 0.25 and evaluate_task(Oracle(), task).metrics["loss"] == pytest.approx(0, abs=1e-5)


def test_continuations_depend_on_the_seed_only(corpus):
    def inputs(seed):
        spec = {"kind": "continuation", "corpus": corpus, "questions": 10, "seed": seed}
        return torch.cat([batch.input_ids for batch in build_task(spec, TOKENIZER).batches])

    assert torch.equal(inputs(0), inputs(0))
    assert not torch.equal(inputs(0), inputs(1))


def test_continuations_in_other_tokens_than_the_model_s_are_refused(corpus):
    with pytest.raises(UserError, match="in the tokens of another tokenizer than the model's"):
        build_task({"kind": "continuation", "corpus": corpus}, tokenizer_of("byte_level"))


def test_too_many_continuations_are_refused(corpus):
    with pytest.raises(UserError, match=r"has room for \d+ questions of 64 \+ 16 tokens, not 100000"):
        build_task({"kind": "continuation", "corpus": corpus, "questions": 100_000}, TOKENIZER)


@pytest.mark.parametrize("name", ["general_knowledge", "python_code", "short_answers"])
def test_the_package_s_own_files_are_sound(name):
    kind = "exact_answer" if name == "short_answers" else "multiple_choice"
    task = build_task({"kind": kind, "path": name}, TOKENIZER)
    assert len(task.batches[0].group.unique()) > 0
    assert sum(int(batch.correct.sum()) for batch in task.batches) >= 28


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "no kind of task None: use one of continuation, recall, "),
        ({"kind": "poetry"}, "no kind of task 'poetry'"),
        ({"kind": "recall", "pear": 3}, 'has no option "pear"'),
        ({"kind": "multiple_choice"}, 'needs the option "path"'),
        ({"kind": "multiple_choice", "path": "x", "file": "y"}, 'has no option "file": it takes path, limit'),
        ({"kind": "multiple_choice", "path": "nowhere"}, "or one of general_knowledge, python_code, short_answers"),
    ],
)
def test_wrong_specs_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        build_task(spec, TOKENIZER)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1, is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"choices": ["a", "b"], "answer": 0}', 'needs a text under "prompt"'),
        ('{"prompt": "p", "choices": ["a"], "answer": 0}', "two texts or more"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": 2}', "0 to 1"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": "a"}', "index of the right choice"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        build_task({"kind": "multiple_choice", "path": str(tmp_path / "q.jsonl")}, TOKENIZER)


def test_every_kind_can_be_built(corpus, tmp_path):
    own = {"continuation": {"corpus": corpus}, "exact_answer": {"path": "short_answers"}}
    own["multiple_choice"] = {"path": "python_code"}
    for kind in TASKS:
        assert build_task({"kind": kind, **own.get(kind, {})}, TOKENIZER).name == kind


@pytest.mark.parametrize("data", ["é".encode("latin-1"), '{"prompt": "a", "answer": "b"}'.encode("utf-16"), b"\0"])
def test_task_files_in_another_encoding_are_read_or_refused(tmp_path, data):
    (tmp_path / "q.jsonl").write_bytes(data)
    spec = {"kind": "exact_answer", "path": str(tmp_path / "q.jsonl")}
    if data.startswith(b"\xff\xfe"):
        assert rows_of(build_task(spec, TOKENIZER)) == [("a b", " b")]
    else:
        with pytest.raises(UserError, match="q.jsonl is not UTF-8 text: save it in UTF-8"):
            build_task(spec, TOKENIZER)
