"""Whole runs of a miniature `jetlit postnas`, each in a process of its own that can be killed."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

TINY = Path(__file__).parent / "tiny" / "postnas.yaml"
_DEADLINE_SECONDS = 600

# One server imports everything once; every run is then a fork of it, which saves the imports.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["jetlit.cli.subcommands", "jetlit.pipeline.postnas"])


def postnas(run_dir: Path, *extra: str) -> None:
    """Run in the child; its output goes to RUN_DIR.log."""
    import torch

    from jetlit.cli import main

    # Threads of several processes on few cores wait for each other more than they work.
    torch.set_num_threads(1)
    log = os.open(f"{run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(main(["postnas", "--config", str(TINY), "--run_dir", str(run_dir), *extra]))


def run_to_the_end(run_dir: Path, *extra: str) -> str:
    """Run and return what it printed in this call."""
    status, said = attempt(run_dir, *extra)
    assert status == 0, said[-3000:]
    return said


def attempt(run_dir: Path, *extra: str) -> tuple[int | None, str]:
    """Run and return the exit status, and what it printed in this call."""
    log = Path(f"{run_dir}.log")
    before = len(log.read_text()) if log.exists() else 0
    process = _context.Process(target=postnas, args=(run_dir, *extra))
    process.start()
    process.join(_DEADLINE_SECONDS)
    if process.is_alive():
        process.kill()
    return process.exitcode, log.read_text()[before:]


def run_until(run_dir: Path, moment: Callable[[Path], bool]) -> None:
    """Run and kill the process, with SIGKILL, as soon as `moment` has come."""
    process = _context.Process(target=postnas, args=(run_dir,))
    process.start()
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not moment(run_dir):
        assert process.is_alive(), Path(f"{run_dir}.log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
