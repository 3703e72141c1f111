"""What all tests share: how processes divide them, and a run folder whose teacher and stage 1 are finished."""

import shutil

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

TOGETHER = {"pipeline", "tasks"}  # folders whose tests look at one miniature run, or at lm-eval's thousands of files
APART = {"gpu"}  # folders whose tests spend their time compiling kernels, each its own


def division(nodeid):
    """Name the tests that one of several processes takes together: those of a file or a folder, or one alone."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    name = folder.rpartition("/")[2]
    if name in APART:
        return nodeid
    return folder if name in TOGETHER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = division
    config.option.loadscopereorder = False
    return scheduling


def pytest_collection_modifyitems(config, items):
    """Several processes take the slow ones first, lest one of them works on alone at the end."""
    if hasattr(config, "workerinput"):
        slow = {division(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: division(item.nodeid) not in slow)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    from tests.recipes import tiny  # imports all of jetlit, which not every test needs

    run_dir = tmp_path_factory.mktemp("run")
    tiny.prepare_run(run_dir)
    for stage in ("teacher", "stage1"):
        tiny.fit(run_dir, stage)
    return run_dir


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """Return a copy of that run to work in."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"
