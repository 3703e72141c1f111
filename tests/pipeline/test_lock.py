"""A run folder belongs to one process at a time."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.pipeline.lock import run_lock


def hold(folder: Path, seconds: float) -> None:
    with run_lock(folder):
        (folder / "held").touch()
        time.sleep(seconds)


def test_two_runs_do_not_share_a_folder_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 60.0))
    process.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "held").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(UserError, match=rf"in use by process {process.pid} on .*: wait"), run_lock(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with run_lock(tmp_path):
        pass
