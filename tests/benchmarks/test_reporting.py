"""benchmarks/reporting.py: a part measured again takes its rows' place in the report and leaves the others."""

import importlib.util
import json
from pathlib import Path

import pytest

from jetlit.errors import UserError

FILE = Path(__file__).parents[2] / "benchmarks" / "reporting.py"


@pytest.fixture(scope="module")
def reporting():
    spec = importlib.util.spec_from_file_location("reporting", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(file: Path) -> list[dict]:
    return json.loads(file.read_text())["rows"]


def test_new_rows_replace_those_of_the_same_keys_where_they_stand(reporting, tmp_path):
    first = [{"model": "2B", "context": context, "rate": 1.0} for context in (4096, 65536)]
    reporting.report("speed", "Speed", first, folder=tmp_path)
    new = [{"model": "2B", "context": 262144, "rate": 2.0}, {"model": "2B", "context": 4096, "rate": 3.0}]
    merged = reporting.with_earlier(new, "speed", ("model", "context"), tmp_path)
    reporting.report("speed", "Speed", merged, folder=tmp_path)
    found = rows(tmp_path / "speed.json")
    assert [(row["context"], row["rate"]) for row in found] == [(4096, 3.0), (65536, 1.0), (262144, 2.0)]
    assert all(row["measured"] for row in found)


def test_rows_keep_the_day_they_were_measured(reporting, tmp_path):
    reporting.report("speed", "Speed", [{"context": 1}, {"context": 2, "measured": "2020-01-01"}], folder=tmp_path)
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"date": "2021-01-01"}))
    merged = reporting.with_earlier([{"context": 3}], "speed", ("context",), tmp_path)
    assert [row["measured"] for row in merged[:2]] == ["2021-01-01", "2020-01-01"]
    assert merged[2]["measured"] > "2021-01-01"


def test_rows_of_another_gpu_are_not_mixed(reporting, tmp_path):
    reporting.report("speed", "Speed", [{"context": 1}], folder=tmp_path)
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hardware": {"gpus": ["another"]}}))
    with pytest.raises(UserError, match="measured on .*another"):
        reporting.with_earlier([{"context": 1}], "speed", ("context",), tmp_path)


def test_a_report_can_be_silent(reporting, tmp_path, capsys):
    reporting.report("times", "Times", [{"what": "a"}], folder=tmp_path, show=False)
    assert capsys.readouterr().out == ""


def one_of(gpus: list[str], date: str, **other) -> dict:
    facts = {"date": date, "hardware": {"cores": 3, "gpus": gpus}, "versions": {"torch": "1"}, "command": f"of {date}"}
    return facts | {"rows": [{"gpus": len(gpus)}]} | other


def test_merged_reports_say_what_measured_them(reporting, tmp_path):
    parts = [one_of(["card"], "2020-01-02"), one_of(["card", "card"], "2020-01-01")]
    rows, facts = reporting.merged(parts)
    text = reporting.report("both", "Both", rows, folder=tmp_path, facts=facts)
    found = json.loads((tmp_path / "both.json").read_text())
    assert [row["gpus"] for row in found["rows"]] == [1, 2] and found["title"] == "Both"
    assert found["hardware"] == {"cores": 3, "gpus": ["card", "card"]} and found["versions"] == {"torch": "1"}
    assert "`of 2020-01-02; of 2020-01-01` on 2020-01-02; card, card; torch 1." in text


@pytest.mark.parametrize("other", [{"versions": {"torch": "2"}}, {"hardware": {"cores": 3, "gpus": ["another"]}}])
def test_reports_of_two_machines_are_not_merged(reporting, other):
    with pytest.raises(UserError, match="different machines or versions"):
        reporting.merged([one_of(["card"], "2020-01-01"), one_of(["card"], "2020-01-01", **other)])
