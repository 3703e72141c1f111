"""benchmarks/reporting.py: a report of some rows leaves the others of an earlier one as they were."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reporting(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("reporting")
    sys.modules.pop("reporting", None)


def test_rows_measured_again_replace_their_like_where_they_stand(reporting, tmp_path):
    first = [{"what": "a", "ms": 1.0}, {"what": "b", "ms": 2.0, "error": 0.1}]
    reporting.report("times", "Times", reporting.merged("times", first, "what", tmp_path), folder=tmp_path)
    again = [{"what": "b", "ms": 3.0}, {"what": "c", "ms": 4.0}, {"what": "c", "ms": 5.0, "error": 0.2}]
    text = reporting.report("times", "Times", reporting.merged("times", again, "what", tmp_path), folder=tmp_path)
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert rows == [first[0], again[0], again[2]]
    assert "| b | 3 | - |" in text and text == (tmp_path / "times.md").read_text()


def test_a_report_can_be_silent(reporting, tmp_path, capsys):
    reporting.report("times", "Times", [{"what": "a"}], folder=tmp_path, show=False)
    assert capsys.readouterr().out == ""
