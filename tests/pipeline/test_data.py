"""The stage `data` notices when the text that it reads has changed."""

import json
import os
import shutil
from pathlib import Path

import pytest
from jetlit_data import CorpusSpec

from jetlit.errors import UserError
from jetlit.pipeline.data import DataConfig
from jetlit.pipeline.postnas import PostnasConfig, postnas


@pytest.fixture
def run(tmp_path: Path):
    """Run the stage data alone on two files; return what it said of the stage."""
    (tmp_path / "text").mkdir()
    for name in ("a", "b"):
        (tmp_path / "text" / f"{name}.txt").write_text("".join(f"{name} line {number}\n" for number in range(9)))
    lines = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(50))
    (tmp_path / "text" / "c.jsonl").write_text(lines)
    stage = {"corpora": {"notes": {"source": str(tmp_path / "text")}}, "val_fraction": 0.2}
    (tmp_path / "data.yaml").write_text(json.dumps(stage))

    def postnas_() -> str:
        said: list[str] = []
        postnas(PostnasConfig({"data": [str(tmp_path / "data.yaml")]}, run_dir=str(tmp_path / "run")), said.append)
        return said[0].partition(": ")[2]

    return postnas_


def test_a_changed_source_is_noticed_and_an_unchanged_one_is_not(run, tmp_path: Path) -> None:
    assert run() == "begins"
    os.utime(tmp_path / "text" / "a.txt", (0, 0))
    assert run() == "finished before, skipped"
    text = (tmp_path / "text" / "a.txt").read_text()
    (tmp_path / "text" / "a.txt").write_text(text.replace("1", "2"))  # of the same size
    assert run() == f"its input {tmp_path / 'text'} changed, redone"
    (tmp_path / "text" / "d.txt").write_text("one more")
    assert run() == f"its input {tmp_path / 'text'} changed, redone"


def test_a_run_without_its_source_says_so(run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "text")
    with pytest.raises(UserError, match="no source of text"):
        run()


def test_a_home_folder_is_found_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = DataConfig({"a": CorpusSpec("~/text")}, run_dir="~/runs/mine", tokenizer="~/tokenizer")
    assert (config.out_dir, config.tokenizer) == ("/home/me/runs/mine/data", "/home/me/tokenizer")
    assert config.corpora["a"].source == "/home/me/text"
