"""result.json and the hash a stage is recognized by."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlit.errors import UserError
from jetlit.results import Result, config_hash, read_result, with_units, write_result


def write(folder, hash=None, **changes):
    arguments = {"stage": "teacher", "config": {"a": 1}, "metrics": {"loss": 1.5}}
    return write_result(folder, Result(**{**arguments, "seed": 3, "seconds": 1.23456, **changes}), hash)


def test_a_result_holds_all_that_the_report_needs(tmp_path):
    write(tmp_path / "new" / "folder")
    result = read_result(tmp_path / "new" / "folder")
    assert {"stage", "hash", "config", "decision", "metrics", "versions", "hardware", "seed", "seconds", "date"} == set(
        result
    )
    assert result["hash"] == config_hash({"a": 1})
    assert result["metrics"]["loss"] == {"value": 1.5, "unit": "nats/token"}
    assert result["versions"]["torch"] and result["hardware"]["cores"] >= 1


def test_the_callers_hash_wins(tmp_path):
    assert json.loads(write(tmp_path, hash="abc").read_text())["hash"] == "abc"


def test_no_result_is_none_and_a_failed_write_leaves_nothing(tmp_path):
    assert read_result(tmp_path) is None
    with pytest.raises(ValueError):
        write(tmp_path, config={"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_result(tmp_path)


def test_a_number_that_is_none_becomes_null():
    found = with_units({"a": float("nan"), "b_seconds": float("-inf"), "c": 0.0, "d": None})
    assert [entry["value"] for entry in found.values()] == [None, None, 0.0, None]
    assert found["b_seconds"]["unit"] == "s"


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    result = Result("fit", {"a": 1}, {"val/loss": 2.0}, {"model": "model"}, seed=0, seconds=1.5)
    write_result(tmp_path, result)
    assert Result.of(read_result(tmp_path)) == result


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_the_hash_depends_on_content_not_on_order(config):
    shuffled = dict(reversed(list(config.items())))
    assert config_hash(shuffled) == config_hash(config)
    assert config_hash({**config, "one more": 1}) != config_hash(config)


def test_a_moved_run_keeps_its_hash():
    def config(run_dir):
        corpora = {f"{run_dir}/data/a": 0.5, "elsewhere/b": 0.5}
        return {"run_dir": run_dir, "model": {"teacher": f"{run_dir}/teacher/model", "corpora": corpora}}

    assert config_hash(config("runs/one")) == config_hash(config("/elsewhere/two"))
    assert config_hash(config("runs/one")) != config_hash({**config("runs/one"), "extra": "runs/one-b/x"})
    assert config_hash({"run_dir": "a", "x": "a-b/c"}) != config_hash({"run_dir": "d", "x": "d-b/c2"})
