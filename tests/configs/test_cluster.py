"""The script for SLURM, with stubs in the place of SLURM's own commands."""

import os
import subprocess
from pathlib import Path

import pytest

from jetlit.cli.fit import open_fit

ROOT = Path(__file__).parents[2]
STUBS = {
    "srun": 'exec "$@"',
    "jetlit": 'printf "%s\\n" "$@" > "$NOTES/jetlit.called"; exit "$STATUS"',
    "scontrol": 'echo "$@" > "$NOTES/scontrol.called"',
}
JOB = {"SLURM_NTASKS": "32", "SLURM_NNODES": "4", "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_ID": "71"}


@pytest.fixture
def sbatch(tmp_path):
    """Return a function that runs the script as a job whose fit ends with a status; it returns the script's own."""
    for name, line in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)

    def run(status, *configs):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path), "STATUS": str(status)}
        return subprocess.run(["bash", "configs/cluster/slurm.sh", *configs], cwd=ROOT, env=path | JOB).returncode

    return run


def test_the_configs_and_the_job_s_size_reach_the_fit(sbatch, tmp_path, monkeypatch):
    assert sbatch(0, "configs/jet_nemotron_2b/common.yaml", "configs/jet_nemotron_2b/stage1.yaml") == 0
    argv = (tmp_path / "jetlit.called").read_text().splitlines()
    assert argv[0] == "fit" and argv[-2:] == ["--ckpt_path", "last"]
    monkeypatch.chdir(ROOT)
    config = open_fit(argv[1:], build=False).resolved()
    assert config["stage"] == "stage1" and config["data"]["init_args"]["block_size"] == 4096
    assert config["trainer"]["num_nodes"] == 4 and int(config["trainer"]["devices"]) == 8
    assert config["trainer"]["strategy"]["init_args"]["data_parallel_size"] == 32
    assert not (tmp_path / "scontrol.called").exists()


def test_a_fit_that_sigterm_ended_is_queued_again(sbatch, tmp_path):
    assert sbatch(143, "one.yaml") == 0
    assert (tmp_path / "scontrol.called").read_text() == "requeue 71\n"


def test_a_fit_that_failed_is_not(sbatch, tmp_path):
    assert sbatch(1, "one.yaml") == 1
    assert not (tmp_path / "scontrol.called").exists()
