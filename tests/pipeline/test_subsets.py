"""Runs of some stages only: what a finished run holds is skipped, the rest reads the last file that there is."""

import shutil
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.models import Architecture
from jetlit.pipeline.configs import load_config, merge_configs
from jetlit.pipeline.postnas import PostnasConfig, postnas
from jetlit.results import read_result
from tests.pipeline.runs import TINY

pytestmark = pytest.mark.slow


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    shutil.copytree(undisturbed, tmp_path / "run")
    return tmp_path / "run"


def bring_up_to_date(run: Path, names: list[str], **changes) -> list[str]:
    """Run these stages and return those that were not skipped."""
    values = merge_configs([TINY], {"run_dir": str(run)} | changes)
    values["stages"] = {name: files for name, files in values["stages"].items() if name in names} | changes.get(
        "stages", {}
    )
    lines: list[str] = []
    postnas(load_config(PostnasConfig, values), lines.append)
    return [line.split()[1].rstrip(":") for line in lines if ": done in " in line]


def layers(run: Path, stage: str) -> list[str]:
    return Architecture.load(run / stage / "model" / "config.json").layer_types


def test_without_hardware_search_stage_1_takes_the_blocks_architecture(run: Path) -> None:
    names = ["data", "teacher", "supernet", "placement", "blocks", "stage1"]
    assert bring_up_to_date(run, names) == ["stage1"]
    config = read_result(run / "stage1")["config"]
    assert config["model"]["init_args"]["architecture"] == str(run / "blocks/architecture.json")
    assert layers(run, "stage1") == Architecture.load(run / "blocks/architecture.json").layer_types


def test_a_given_architecture_takes_the_place_of_all_searches(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    Architecture(["attn", "gla", "gla"]).save(file)
    names = ["data", "teacher", "stage1", "export"]
    assert bring_up_to_date(run, names, architecture=str(file)) == ["stage1", "export"]
    assert layers(run, "stage1") == ["attn", "gla", "gla"]
    assert read_result(run / "export")["config"]["model"] == str(run / "stage1/model")
    assert bring_up_to_date(run, names, architecture=str(file)) == []
    Architecture(["gla", "gla", "attn"]).save(file)  # the file's content counts, not its name
    assert bring_up_to_date(run, names, architecture=str(file)) == ["stage1", "export"]


def test_a_pretrained_teacher_is_prepared_and_comes_first(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text(f"name: {undisturbed / 'teacher/model'}\ndtype: float32\n")
    stages = {"teacher": [str(tmp_path / "teacher.yaml")]}
    done = bring_up_to_date(tmp_path / "run", ["data", "supernet"], pretrained=True, stages=stages)
    assert done == ["teacher", "data", "supernet"]
    assert read_result(tmp_path / "run/teacher")["config"]["name"] == str(undisturbed / "teacher/model")


def test_a_teacher_may_be_given_by_its_folder(undisturbed: Path, tmp_path: Path) -> None:
    teacher = str(undisturbed / "teacher/model")
    assert bring_up_to_date(tmp_path / "run", ["data", "supernet"], teacher=teacher) == ["data", "supernet"]
    assert read_result(tmp_path / "run/supernet")["config"]["model"]["init_args"]["teacher"] == teacher


def test_a_stage_that_lacks_what_it_reads_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The stage 'stage1' needs an architecture"):
        bring_up_to_date(tmp_path / "run", ["data", "teacher", "stage1"])
    assert not (tmp_path / "run").exists()
