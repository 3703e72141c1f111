"""Runs of their own processes: two ranks with different data, and a run killed and resumed."""

import json
import signal
import time

import pytest
import torch

from jetlit.datamodules import Corpus
from tests.datamodules.record import run, start


def batches(folder, rank=0):
    """Step to the digests of the blocks the rank saw in it."""
    log = folder / f"rank{rank}.jsonl"
    return dict(json.loads(line) for line in log.read_text().splitlines()) if log.exists() else {}


def blocks(folder, ranks):
    return [digest for rank in range(ranks) for digests in batches(folder, rank).values() for digest in digests]


def data_of(corpora, mixed):
    return [Corpus(corpora["large"], 0.7), Corpus(corpora["small"], 0.3)] if mixed else corpora["large"]


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_two_ranks_see_different_blocks_and_resume_exactly(corpora, tmp_path, mixed):
    options = {"steps": 14, "ranks": 2, "workers": 2 if mixed else 0}
    run(data_of(corpora, mixed), tmp_path / "whole", **options)
    epoch = 8
    first_epoch = [d for rank in (0, 1) for step in range(epoch) for d in batches(tmp_path / "whole", rank)[step]]
    assert len(set(first_epoch)) == len(first_epoch) == 2 * 4 * epoch
    run(data_of(corpora, mixed), tmp_path / "rest", **options, resume=tmp_path / "whole" / "step=5.ckpt")
    for rank in (0, 1):
        whole, rest = batches(tmp_path / "whole", rank), batches(tmp_path / "rest", rank)
        assert list(rest) == list(range(5, 14)) and all(rest[step] == whole[step] for step in rest)


def test_ranks_take_the_blocks_of_one_process_in_turn(corpora, tmp_path):
    steps = 14  # more than an epoch
    run(data_of(corpora, True), tmp_path / "one", steps=steps, batch_size=4)
    run(data_of(corpora, True), tmp_path / "two", steps=steps, ranks=2, workers=2, batch_size=2)
    one = batches(tmp_path / "one")
    for rank in (0, 1):
        two = batches(tmp_path / "two", rank)
        assert all(two[step] == one[step][rank::2] for step in range(steps))


def test_what_two_ranks_left_of_an_epoch_one_rank_reads(corpora, tmp_path):
    run(corpora["large"], tmp_path / "two", steps=3, ranks=2)
    run(corpora["large"], tmp_path / "one", steps=9, batch_size=8, resume=tmp_path / "two" / "step=3.ckpt")
    seen = blocks(tmp_path / "two", 2) + blocks(tmp_path / "one", 1)
    assert len(seen) == 9 * 8 and len(set(seen)) == len(seen)


def test_what_one_rank_left_of_an_epoch_two_ranks_read(corpora, tmp_path):
    run(corpora["large"], tmp_path / "one", steps=3, batch_size=8)
    run(corpora["large"], tmp_path / "two", steps=9, ranks=2, resume=tmp_path / "one" / "step=3.ckpt")
    seen = blocks(tmp_path / "one", 1) + blocks(tmp_path / "two", 2)
    assert len(seen) == 9 * 8 and len(set(seen)) == len(seen)


@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_a_run_killed_at_any_step_goes_on_as_if_nothing_had_happened(corpora, tmp_path, mixed):
    data, workers, steps = data_of(corpora, mixed), 2 if mixed else 0, 40
    run(data, tmp_path / "whole", steps=steps, workers=workers)
    folder = tmp_path / "killed"
    for reached in (6, 21):  # once in the first epoch, once in a later one
        process = start(data, folder, steps, workers=workers, pause=0.03, resume=newest_checkpoint(folder))
        deadline = time.monotonic() + 60
        while max(batches(folder), default=-1) < reached and time.monotonic() < deadline:
            assert process.is_alive(), (folder / "error.txt").read_text()
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and reached <= max(batches(folder)) < steps - 1
    run(data, folder, steps=steps, workers=workers, resume=newest_checkpoint(folder))
    lines = [json.loads(line) for line in (folder / "rank0.jsonl").read_text().splitlines()]
    whole = batches(tmp_path / "whole")
    assert {step for step, _ in lines} == set(range(steps))
    assert all(whole[step] == digests for step, digests in lines)  # those run twice, too


def newest_checkpoint(folder):
    """Return the newest checkpoint that can be read; None if there is none."""
    for path in sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]), reverse=True):
        try:
            torch.load(path, weights_only=False)
        except (RuntimeError, EOFError, OSError):  # cut off by the kill
            continue
        return path
    return None
