"""benchmarks/scaling.py on processes of a CPU: every row, and the checkpoint that half as many processes take up.

A checkpoint that did not hold the weights and the optimizer's moments would fail the script, to 1e-5.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jetlit_data import CorpusSpec, prepare

from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, hybridize

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Return a folder with the report of one and two processes."""
    folder = tmp_path_factory.mktemp("scaling")
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    teacher = JetNemotronForCausalLM(JetNemotronConfig(**shape, **heads))
    teacher.save_pretrained(folder / "teacher")
    hybridize(teacher, Architecture(["jet", "attn"], {"jet": {}})).save_pretrained(folder / "student")
    specs = {name: CorpusSpec("arithmetic", max_tokens=9_000) for name in ("one", "other")}
    prepare(folder, specs, val_fraction=0.1, chunk_tokens=2**12, progress=False)
    options = ["--models", folder, "--accelerator", "cpu", "--eager", "--steps", "stage1", "--batch", 1]
    options += ["--length", 24, "--count", 4, "--warmup", 1, "--corpora", *(folder / name for name in specs)]
    command = [sys.executable, SCRIPT, *options, "--processes", 1, 2, "--out", folder]
    subprocess.run([*map(str, command)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=250)
    return folder


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "scaling.json").read_text())["rows"]


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_goes_on(measured):
    *loaders, one, two = rows(measured)
    assert [row["processes"] for row in (*loaders, one, two)] == [1, 2, 1, 2]
    assert all(row["tokens/s"] == pytest.approx(row["processes"] * 24 / row["step s"]) for row in (one, two))
    assert one["efficiency"] == 1 and two["efficiency"] == pytest.approx(one["step s"] / two["step s"])
    assert two["its checkpoint resumed by"].startswith("1, to step 4")
    assert {row["step"] for row in loaders} == {"loader, 4 workers"}
    assert all(row["tokens/s"] == row["processes"] * row["tokens/s a process"] > 0 for row in loaders)
    assert all(0 < row["an epoch begins after s"] < 60 for row in loaders)
    assert (measured / "scaling.png").stat().st_size > 0


@pytest.mark.slow
def test_what_was_measured_apart_is_merged(measured, tmp_path, monkeypatch):
    report = json.loads((measured / "scaling.json").read_text())
    for processes in (1, 2):
        own = [row | {"efficiency": None} for row in report["rows"] if row["processes"] == processes]
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "scaling.json").write_text(json.dumps(report | {"rows": own}))
    monkeypatch.syspath_prepend(SCRIPT.parent)
    command = [SCRIPT, "--merge", tmp_path / "2", tmp_path / "1", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    importlib.import_module("scaling").main()
    assert rows(tmp_path) == report["rows"]
    assert (tmp_path / "scaling.png").stat().st_size > 0
