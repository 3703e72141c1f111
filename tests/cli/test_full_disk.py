"""A disk that is full at any moment of a subcommand: one sentence, and no file is torn or lost."""

import multiprocessing
import os
import random
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch

from jetlit.cli import main
from jetlit.files import MARK, remove
from jetlit.training import last_checkpoint
from tests.cli.test_output_folders import commands, digest, sources, written_to  # noqa: F401
from tests.recipes import tiny

SIZES = (0, 1, 50, 300, 600)
ATTACKS = int(os.environ.get("ATTACKS", 2))
NAMES = ("data", "teacher", "search placement", "export", "convert", "eval")

pytestmark = [pytest.mark.attack, pytest.mark.timeout(600)]


def limited(arguments: list[str], size: int, output: int) -> None:
    """Run a subcommand with no file over `size` bytes, as on a full disk, and end the process."""
    torch.set_num_threads(1)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1, encoding="utf-8")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os._exit(main(arguments))


def run(arguments: list[str], size: int) -> tuple[int | None, str]:
    ours, theirs = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=limited, args=(arguments, size, theirs))
    process.start()
    os.close(theirs)
    with open(ours, encoding="utf-8", errors="replace") as said:
        text = said.read()
    process.join()
    return process.exitcode, text


@pytest.mark.parametrize("seed", range(ATTACKS))
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_sentence(name: str, seed: int, sources: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments, option, _ = commands(sources)[name]
    if name == "search placement":
        arguments = [*arguments, "--workers=2"]
    if name == "data":
        arguments = ['--corpora={"text": {"source": "recall", "max_tokens": 4000}}', "--val_fraction=0.3"]
    command = [*name.split(), *arguments, *written_to(tmp_path / "out", option)]
    size = random.Random(f"{name} {seed}").choice(SIZES)
    before = digest(sources)
    status, said = run(command, size)
    assert "Traceback" not in said, said
    assert status == 2 and "jetlit: " in said, said
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != MARK]
    assert not [path for path in left if ".tmp" in path.name], "nothing temporary is left"
    assert not [path for path in left if path.suffix in (".safetensors",)] and digest(sources) == before


@pytest.mark.parametrize("size", [0, 100, 1000, 5000, 20_000][: ATTACKS + 1])
def test_a_full_disk_in_a_fit_is_one_sentence(run_dir: Path, size: int) -> None:
    before = digest(run_dir)
    command = tiny.command(run_dir, "teacher", "--stage", "full", "--ckpt_path", "last")
    status, said = run(command, size)
    assert status == 2 and "jetlit: " in said and "Traceback" not in said, said
    assert not [path for path in run_dir.rglob(".*.tmp*")]
    assert last_checkpoint(run_dir / "full" / "checkpoints") is None, "none was written whole"
    if (run_dir / "full").exists():
        remove(run_dir / "full")
    assert digest(run_dir) == before
    assert run(command, resource.RLIM_INFINITY)[0] == 0
