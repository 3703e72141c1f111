import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from jetlit.files import write_text
from jetlit.results import config_hash
from jetlit.search import study as study_module
from jetlit.search.study import SharedStudy

ROWS = [{"a": a, "b": b} for a in (3, 1, 2) for b in (5, 4)]
context = multiprocessing.get_context("fork")


def work(folder: Path, pause: float = 0.0, jobs: list[dict[str, int]] = ROWS, name: str = "grid") -> list[dict]:
    def job(row: dict[str, int]) -> dict:
        with open(folder / "started.txt", "a") as log:
            log.write(f"{os.getpid()} {row['a']} {row['b']}\n")
        time.sleep(pause)
        write_text(folder / f"{row['a']}-{row['b']}", str(os.getpid()))
        return {"sum": row["a"] + row["b"]}

    return SharedStudy(folder, name, jobs).run(job, lambda: None)


def started(folder: Path) -> list[str]:
    """Return the jobs that were begun."""
    path = folder / "started.txt"
    return [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []


def begin(folder: Path, *arguments) -> multiprocessing.process.BaseProcess:
    """Start a worker and return it once it is at work."""
    worker = context.Process(target=work, args=(folder, *arguments))
    worker.start()
    deadline = time.monotonic() + 30
    while not started(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SharedStudy(tmp_path / "study", "grid", ROWS)
    return tmp_path / "study"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"STALE_SECONDS": 0.6, "HEARTBEAT_SECONDS": 0.05, "POLL_SECONDS": 0.05}.items():
        monkeypatch.setattr(study_module, name, seconds)


def test_outcomes_come_in_the_order_of_the_rows_and_are_not_computed_twice(folder: Path) -> None:
    expected = [{"sum": row["a"] + row["b"]} for row in ROWS]
    assert work(folder) == expected
    assert work(folder) == expected
    assert work(folder, jobs=ROWS[::-1]) == expected[::-1]
    assert len(started(folder)) == len(ROWS)
    work(folder, name="other")
    assert len(started(folder)) == 2 * len(ROWS)


def test_relative_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert len(work(Path("study"))) == len(ROWS)


def test_workers_share_the_rows(folder: Path) -> None:
    workers = [context.Process(target=work, args=(folder, 0.1)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(started(folder)) == sorted(f"{row['a']} {row['b']}" for row in ROWS)


def test_row_of_a_killed_worker_is_taken_over_at_once(folder: Path) -> None:
    worker = begin(folder, 60.0)
    worker.kill()
    worker.join()
    begun = time.monotonic()
    assert len(work(folder)) == len(ROWS)
    assert time.monotonic() - begun < study_module.STALE_SECONDS / 2
    assert len(started(folder)) == len(ROWS) + 1


def test_row_of_a_failed_worker_is_taken_over_at_once(folder: Path) -> None:
    def fail(row: dict[str, int]) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SharedStudy(folder, "grid", ROWS).run(fail, lambda: None)
    assert len(work(folder)) == len(ROWS)


def claim(folder: Path, row: dict[str, int], **owner) -> Path:
    """Leave a claim as a worker elsewhere does."""
    path = folder / "jobs" / "grid" / f"{config_hash(row)[:16]}.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": os.getpid(), "started": "1", "place": "elsewhere", **owner}))
    return path


@pytest.mark.parametrize("when", [0, 2**33], ids=["past", "future"])
def test_row_of_a_worker_elsewhere_is_taken_over_when_its_heartbeat_stops(
    folder: Path, impatient: None, when: int
) -> None:
    path = claim(folder, ROWS[0])
    os.utime(path, (when, when))  # whatever its clock said
    begun = time.monotonic()
    assert work(folder, jobs=ROWS[:1]) == [{"sum": 8}]
    assert time.monotonic() - begun > 0.5


def test_row_of_a_worker_elsewhere_is_its_own_while_its_heart_beats(folder: Path, impatient: None) -> None:
    # A container with the same hostname, whose processes have numbers of their own.
    path = claim(folder, ROWS[0], pid=2**22 + 1)
    worker = context.Process(target=work, args=(folder, 0.0, ROWS[:1]))
    worker.start()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        os.utime(path)
        time.sleep(0.05)
    assert worker.is_alive() and not started(folder)
    worker.join(30)
    assert worker.exitcode == 0 and len(started(folder)) == 1


def test_a_number_that_another_process_has_now_is_no_sign_of_life(folder: Path) -> None:
    place = study_module._process()["place"]
    if place is None:
        pytest.skip("this system does not say when a process began")
    claim(folder, ROWS[0], place=place)
    assert len(work(folder)) == len(ROWS)


def test_a_stopped_worker_writes_nothing_once_another_has_its_row(folder: Path, impatient: None) -> None:
    worker = begin(folder, 0.3, ROWS[:1])
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    assert work(folder, 0.0, ROWS[:1]) == [{"sum": 8}]
    os.kill(worker.pid, signal.SIGCONT)
    worker.join(30)
    assert worker.exitcode == 0  # it reads the other one's outcome
    assert (folder / "3-5").read_text() == str(os.getpid()) and len(started(folder)) == 2


def damage(path: Path, random: random.Random) -> None:
    kind = random.choice(["delete", "cut", "empty", "zeros", "other", "folder"])
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "delete":
        contents = {"cut": content[: len(content) // 2], "zeros": bytes(len(content)), "other": b'{"outcome": 3}'}
        path.write_bytes(contents.get(kind, b""))


@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_of_a_study_cost_their_jobs_alone(folder: Path, seed: int) -> None:
    expected = work(folder)
    drawn = random.Random(seed)
    files = sorted((folder / "jobs" / "grid").glob("*.json"))
    for path in drawn.sample(files, 2):
        damage(path, drawn)
    assert work(folder) == expected
    assert len(started(folder)) <= len(ROWS) + 2


def test_a_journal_of_the_earlier_version_is_left_alone(folder: Path) -> None:
    (folder / "journal.log").write_text('{"op_code": 0, "worker')  # torn
    assert len(work(folder)) == len(ROWS)
    assert (folder / "journal.log").exists()
