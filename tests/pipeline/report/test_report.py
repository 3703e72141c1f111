import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from jetlit.errors import UserError
from jetlit.pipeline.report.report import write_report
from jetlit.pipeline.report.tensorboard import loss_curves
from jetlit.pipeline.report.text import Sample
from jetlit.results import Result, write_result


def finish(run: Path, stage: str, decision: dict, **metrics: float) -> None:
    write_result(run / stage, Result(stage, {"a": 1}, metrics, decision, seed=4, seconds=61.5), hash="b" * 64)


def write_curve(folder: Path, steps: list[tuple[int, float]]) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, value in steps:
            writer.add_scalar("train/loss", value, step)
            writer.add_scalar("train/tokens_per_s", 5.0, step)


def test_a_run_that_is_not_finished_is_reported_as_far_as_it_got(tmp_path: Path) -> None:
    finish(tmp_path, "teacher", {"model": "model"}, **{"val/loss": 2.125})
    write_curve(tmp_path / "teacher/tensorboard", [(0, 3.0), (10, 2.0)])
    scores = {"teacher": {"recall/accuracy": 0.75, "recall/chance": 0.04}}
    write_report(tmp_path, scores, [Sample("teacher", "def ", "f(x):\n    return x")])
    text = (tmp_path / "report.md").read_text()
    assert "recall: the teacher is right in 75.0%, chance is 4.0%." in text
    assert "| val/loss | 2.125 | nats/token |" in text and "bbbbbbbbbbbb" in text and "    return x" in text
    assert "Placement" not in text and "(report/losses.png)" in text
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["stages"]["teacher"]["seed"] == 4 and values["stages"]["teacher"]["versions"]["torch"]
    assert values["figures"] == ["report/held_out.png", "report/losses.png"]
    assert all((tmp_path / figure).exists() for figure in values["figures"])


def test_tensorboard_holds_figures_and_held_out_losses_once_however_often_the_report_is_written(tmp_path: Path) -> None:
    finish(tmp_path, "teacher", {}, **{"val/loss": 2.0})
    write_report(tmp_path)
    finish(tmp_path, "teacher", {}, **{"val/loss": 1.5, "train/loss": 1.0})
    write_report(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("result/teacher/val/loss")] == [1.5]
    assert events.Tags()["scalars"] == ["result/teacher/val/loss"]
    assert events.Tags()["images"] == ["report/held_out.png"]


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished stage"):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_curves_hold_losses_only_and_the_later_value_of_a_step(tmp_path: Path) -> None:
    assert loss_curves(tmp_path / "none") == {}
    write_curve(tmp_path, [(0, 3.0), (10, 2.0), (20, 1.0)])
    write_curve(tmp_path, [(20, 1.5), (30, 0.5)])
    curves = loss_curves(tmp_path)
    assert list(curves) == ["train/loss"]
    assert [step for step, _ in curves["train/loss"]] == [0, 10, 20, 30]


def test_the_report_names_what_a_search_could_not_tell_apart(tmp_path: Path) -> None:
    metrics = {"gla/accuracy": 0.5, "jet/accuracy": 0.5}
    decision = {"block": "jet", "config": {}}
    unsure = {"accuracy_stderr": 0.0125, "not_distinguishable_from": ["gla"], "teacher_at_chance": ["continuation"]}
    blocks = {"gla": {}, "jet": {}}
    for known, name in ((decision, "earlier"), (decision | unsure, "now")):
        write_result(tmp_path / name / "blocks", Result("blocks", {"blocks": blocks}, metrics, known), hash="b" * 64)
        write_report(tmp_path / name)
    text = (tmp_path / "now/report.md").read_text()
    assert "Taken: **jet**, mean accuracy 0.5000 ± 0.0125 (standard error)." in text
    assert "Not distinguishable from gla: within one standard error of the best." in text
    assert "Warning: the teacher is no better than chance on continuation" in text
    assert "Taken:" not in (tmp_path / "earlier/report.md").read_text()
