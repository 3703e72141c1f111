"""A run folder whose teacher and stage 1 are finished, shared by all tests of fits, callbacks and the command line."""

import shutil

import pytest
import torch

from tests.recipes import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    tiny.prepare_run(run_dir)
    for stage in ("teacher", "stage1"):
        tiny.fit(run_dir, stage)
    return run_dir


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """A copy of that run to work in."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"
