"""Measurements are kept under a hash of what they depend on."""

from pathlib import Path

import pytest

from jetlit.generation.measurements import cached_measurement


def test_a_measurement_is_taken_once_for_a_configuration(tmp_path: Path) -> None:
    taken = []

    def take() -> dict[str, float]:
        taken.append(1)
        return {"tokens_per_s": 1.5 * len(taken)}

    assert cached_measurement(tmp_path, {"batch": 1}, take) == {"tokens_per_s": 1.5}
    assert cached_measurement(tmp_path, {"batch": 1}, take) == {"tokens_per_s": 1.5}
    assert cached_measurement(tmp_path, {"batch": 2}, take) == {"tokens_per_s": 3.0}


@pytest.mark.parametrize(
    ("what", "other"), [("hardware", {"gpus": ["another GPU"]}), ("versions", {"torch": "of tomorrow"})]
)
def test_a_measurement_of_another_machine_or_of_other_versions_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, other: dict
) -> None:
    assert cached_measurement(tmp_path, {"batch": 1}, lambda: {"tokens_per_s": 1.0}) == {"tokens_per_s": 1.0}
    monkeypatch.setattr(f"jetlit.generation.measurements.{what}", lambda: other)
    assert cached_measurement(tmp_path, {"batch": 1}, lambda: {"tokens_per_s": 2.0}) == {"tokens_per_s": 2.0}
    monkeypatch.undo()
    assert cached_measurement(tmp_path, {"batch": 1}, lambda: {"tokens_per_s": 3.0}) == {"tokens_per_s": 1.0}


def test_a_measurement_that_was_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", cut_off)  # the moment before the file has its name
    with pytest.raises(KeyboardInterrupt):
        cached_measurement(tmp_path, {"batch": 1}, lambda: {"tokens_per_s": 1.0})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
