import runpy
from pathlib import Path

import pytest
from jetlit_data import load_tokenizer

from jetlit.errors import UserError
from jetlit.tasks import (
    TASKS,
    build_task,
    build_tasks,
    evaluate_task,
    guessed_tasks,
    mean_error,
    register_task,
    score_tasks,
)
from tests.tasks.models import Oracle, random_model

TOKENIZER = load_tokenizer("bytes")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_task.py"


def test_scores_of_several_tasks_and_their_mean():
    specs = [{"kind": "recall", "documents": 2}, {"kind": "multiple_choice", "name": "code", "path": "python_code"}]
    tasks = build_tasks(specs, TOKENIZER)
    model = random_model()
    scores = score_tasks(model, tasks)
    for task in tasks:
        metrics = evaluate_task(model, task).metrics
        assert {f"{task.name}/{name}": value for name, value in metrics.items()}.items() <= scores.items()
        assert scores[f"{task.name}/chance"] == task.chance
    assert scores["accuracy"] == pytest.approx((scores["recall/accuracy"] + scores["code/accuracy"]) / 2)
    assert len(scores) == 5 + 7 + 2 + 1 and all(isinstance(value, float) for value in scores.values())


def test_the_error_of_the_mean_and_tasks_that_are_guessed():
    scores = {"good/accuracy": 0.5, "good/accuracy_stderr": 0.03, "good/chance": 0.25}
    assert guessed_tasks(scores) == {} and mean_error(scores) == 0.03
    scores |= {"bad/accuracy": 12 / 32, "bad/accuracy_stderr": 0.087, "bad/chance": 0.25}
    scores |= {"none/accuracy": 0.0, "none/accuracy_stderr": 0.0, "none/chance": 0.0}
    assert mean_error(scores) == pytest.approx((0.03**2 + 0.087**2) ** 0.5 / 3)
    assert list(guessed_tasks(scores)) == ["bad", "none"]
    assert guessed_tasks(scores)["bad"] == "right in 37.5% ± 8.7% of bad, where guessing is right in 25.0%"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "No task is named"),
        ([{"kind": "recall"}, {"kind": "recall", "seed": 1}], "a name of its own, but the names are recall, recall"),
    ],
)
def test_wrong_lists_of_tasks_are_refused(specs, message):
    with pytest.raises(UserError, match=message):
        build_tasks(specs, TOKENIZER)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"kind": "recall", "documents": -1}, "documents is -1, but should be greater than or equal to 1"),
        ({"kind": "recall", "documents": True}, "documents takes int, not True"),
        ({"kind": "recall", "seed": "x"}, "seed takes int, not 'x'"),
        ({"kind": "recall", "pairs": None}, "pairs takes int, not None"),
        ({"kind": "recall", "style": 3}, "style is 3, but should be 'letters' or 'words'"),
        ({"kind": "arithmetic", "operations": 3}, "operations takes str, not 3"),
        ({"kind": "repetition", "length": float("inf")}, "length takes int, not inf"),
        ({"kind": "exact_answer", "path": "x", "limit": -1}, "limit is -1, but should be greater than or equal to 1"),
        ({"kind": "multiple_choice", "path": "x", "limit": 0}, "limit is 0, but should be greater than or equal to 1"),
        ({"kind": "multiple_choice", "path": ["x"]}, "path takes str, not"),
        ({"kind": "continuation", "corpus": "x", "questions": 1.5}, "questions takes int, not 1.5"),
        ({"kind": "continuation", "corpus": "x", "context": 0}, "context is 0, but should be greater than or equal"),
        ({"kind": "continuation", "corpus": "x", "length": float("nan")}, "length takes int, not nan"),
        ({"kind": ["recall"]}, "A task is a mapping with texts as kind and name"),
        ({"kind": "recall", "name": 3}, "A task is a mapping with texts as kind and name"),
        ("recall", "A task is a mapping with texts as kind and name"),
    ],
)
def test_a_setting_of_another_type_or_range_is_named_with_what_it_takes(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        build_tasks([spec], TOKENIZER)


def test_the_example_adds_a_kind_of_task(monkeypatch, capsys):
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.startswith("reversal: accuracy ")
    task = build_task({"kind": "reversal", "questions": 3}, TOKENIZER)
    assert evaluate_task(Oracle(), task).objective == 1.0 and task.chance == 8**-4
    with pytest.raises(UserError, match='Task kind "reversal" has no option "letters": it takes questions, length'):
        build_task({"kind": "reversal", "letters": 3}, TOKENIZER)
    with pytest.raises(UserError, match="There is a kind of task 'reversal' already"):
        register_task("reversal")(object)
