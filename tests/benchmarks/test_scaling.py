"""benchmarks/scaling.py on processes of a CPU: every row, and the checkpoint that half as many processes take up.

A checkpoint that did not hold the weights and the optimizer's moments would fail the script, to 1e-5.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jetlit_data import CorpusSpec, prepare

from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, hybridise

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


def run(*options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, SCRIPT, *map(str, options)], check=True, env=environment, timeout=400)


@pytest.mark.slow
@pytest.mark.timeout(900)  # five launches, each of which imports everything anew
def test_two_processes_share_the_work_and_one_goes_on(tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    teacher = JetNemotronForCausalLM(JetNemotronConfig(**shape, **heads))
    teacher.save_pretrained(tmp_path / "teacher")
    hybridise(teacher, Architecture(["jet", "attn"], {"jet": {}})).save_pretrained(tmp_path / "student")
    specs = {name: CorpusSpec("arithmetic", max_tokens=9_000) for name in ("one", "other")}
    prepare(tmp_path, specs, val_fraction=0.1, chunk_tokens=2**12, progress=False)
    options = ["--models", tmp_path, "--accelerator", "cpu", "--eager", "--steps", "stage1", "--batch", 1]
    options += ["--length", 24, "--count", 4, "--warmup", 1, "--corpora", *(tmp_path / name for name in specs)]
    run(*options, "--processes", 1, "--parts", "times", "--out", tmp_path / "alone")
    run(*options, "--processes", 2, "--parts", "times", "checkpoint", "loader", "--out", tmp_path / "two")
    run("--merge", tmp_path / "two", tmp_path / "alone", "--out", tmp_path)
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    loader, one, two = rows
    assert [row["processes"] for row in rows] == [2, 1, 2] and loader["step"] == "loader, 4 workers"
    assert all(row["tokens/s"] == pytest.approx(row["processes"] * 24 / row["step s"]) for row in (one, two))
    assert one["efficiency"] == 1 and two["efficiency"] == pytest.approx(one["step s"] / two["step s"])
    assert two["its checkpoint resumed by"].startswith("1, to step 4")
    assert loader["tokens/s a process"] > 0 and loader["efficiency"] is None
    assert (tmp_path / "scaling.png").stat().st_size > 0
