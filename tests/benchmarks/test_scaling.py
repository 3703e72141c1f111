"""benchmarks/scaling.py on processes of a CPU: every row, and the checkpoint that half as many processes take up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, hybridise

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_goes_on(tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    teacher = JetNemotronForCausalLM(JetNemotronConfig(**shape, **heads))
    teacher.save_pretrained(tmp_path / "teacher")
    hybridise(teacher, Architecture(["jet", "attn"], {"jet": {}})).save_pretrained(tmp_path / "student")
    options = ["--models", tmp_path, "--accelerator", "cpu", "--eager", "--processes", 1, 2, "--steps", "stage1"]
    options += ["--batch", 1, "--length", 24, "--count", 4, "--warmup", 1, "--out", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, SCRIPT, *map(str, options)], check=True, env=environment, timeout=250)
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2] and rows[0]["efficiency"] == 1
    assert all(row["tokens/s"] == pytest.approx(row["processes"] * 24 / row["step s"]) for row in rows)
    assert rows[-1]["its checkpoint resumed by"].startswith("1, to step 4")
