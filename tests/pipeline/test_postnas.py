"""The whole pipeline in miniature: what it leaves behind; killed runs decide what an undisturbed one does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jetlit.cli import main
from jetlit.once import MARKER
from jetlit.pipeline.stages import NAMES
from jetlit.results import read_result
from tests.pipeline.runs import TINY, run_to_the_end, run_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What a machine measures may differ from run to run, and a resumed fit logs fewer steps; all else must be the same.
_MEASURED = ("tokens_per_s", "seconds", "memory_bytes", "layer_evaluations", "train/")


def outcome(run_dir: Path) -> dict:
    """Every decision and every number of a run that does not come from a clock."""
    found = {}
    for stage in NAMES:
        result = read_result(run_dir / stage)
        assert result is not None, stage
        numbers = {k: v["value"] for k, v in result["metrics"].items() if not any(word in k for word in _MEASURED)}
        found[stage] = {"hash": result["hash"], "decision": result["decision"], "numbers": numbers}
    found["weights"] = (run_dir / "export" / "model.safetensors").read_bytes()
    return found


def test_leaves_the_folders_and_files_that_the_readme_names(undisturbed: Path) -> None:
    files = ["report.md", "report.json", "placement/placement.json", "placement/heatmap.png", "placement/curve.png"]
    files += ["blocks/table.png", "blocks/table.md", "blocks/architecture.json"]
    files += ["hardware/pareto.png", "hardware/architecture.json", *(f"{stage}/result.json" for stage in NAMES)]
    for name in files:
        assert (undisturbed / name).stat().st_size > 0, name
    assert list((undisturbed / "tensorboard").glob("events*"))
    placement = json.loads((undisturbed / "placement/placement.json").read_text())
    assert placement["layer_types"].count("attn") == len(placement["full_attention"]) <= placement["budget"]
    assert 2 * placement["layer_evaluations"] <= placement["naive_layer_evaluations"]


def test_exported_model_is_loaded_by_transformers_and_has_the_searched_layers(undisturbed: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(undisturbed / "export")
    tokenizer = AutoTokenizer.from_pretrained(undisturbed / "export")
    searched = json.loads((undisturbed / "hardware/architecture.json").read_text())
    assert model.config.layer_types == searched["layer_types"]
    ids = tokenizer("def f(", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_a_placement_searched_in_shares_is_that_of_one_process(undisturbed: Path, tmp_path: Path) -> None:
    config = ["--config", str(TINY.with_name("placement.yaml")), "--run_dir", str(undisturbed)]
    main(["search", "placement", *config, "--out_dir", str(tmp_path), "--workers", "3"])
    assert read_result(tmp_path)["decision"] == read_result(undisturbed / "placement")["decision"]
    assert list((tmp_path / "shared/jobs").glob("*/*.json"))


def test_report_names_every_number_of_every_stage(undisturbed: Path) -> None:
    text = (undisturbed / "report.md").read_text()
    values = json.loads((undisturbed / "report.json").read_text())
    assert set(values["stages"]) == set(NAMES)
    for stage, result in values["stages"].items():
        assert result == read_result(undisturbed / stage)
        assert result["hash"][:12] in text
        for name, found in result["metrics"].items():
            assert f"| {name} |" in text and found["unit"]
    for figure in values["figures"]:
        assert (undisturbed / figure).exists() and f"({figure})" in text
    assert set(values["models"]) == {"teacher", "stage1", "stage2"}
    assert "chance is" in text and "times fewer" in text


def test_finished_run_is_skipped_and_a_changed_one_redone_from_there(undisturbed: Path) -> None:
    before = outcome(undisturbed)
    said = run_to_the_end(undisturbed)
    assert said.count("finished before, skipped") == len(NAMES)
    assert outcome(undisturbed) == before
    (undisturbed / "stage2/result.json").unlink()
    said = run_to_the_end(undisturbed)
    assert said.count("finished before, skipped") == len(NAMES) - 1
    assert outcome(undisturbed) == before


def checkpoint_of(stage: str) -> Callable[[Path], bool]:
    return lambda run: any((run / stage / "checkpoints").glob("*.ckpt"))


def begun(stage: str) -> Callable[[Path], bool]:
    return lambda run: (run / stage / MARKER).exists()


def second(folder: str) -> Callable[[Path], bool]:
    """One candidate is finished and the next one has a checkpoint."""
    return lambda run: (
        any(run.glob(f"{folder}/*/result.json")) and len(list(run.glob(f"{folder}/*/checkpoints/*.ckpt"))) > 1
    )


def test_killed_in_five_stages_and_run_again_decides_the_same(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    moments = {
        "teacher": checkpoint_of("teacher"),
        "placement": begun("placement"),
        "blocks": second("blocks/candidates"),
        "hardware": second("hardware/rows"),
        "stage2": checkpoint_of("stage2"),
    }
    for stage, moment in moments.items():
        run_until(run, moment)
        assert read_result(run / stage) is None, f"{stage} was finished before the kill came"
    said = run_to_the_end(run)
    assert "stage2: resumes where it was interrupted" in said
    assert outcome(run) == outcome(undisturbed)
