import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from jetlit.search import study as study_module
from jetlit.search.study import SharedStudy

ROWS = [{"a": a, "b": b} for a in (3, 1, 2) for b in (5, 4)]


def work(folder: Path, pause: float = 0.0, jobs: list[dict[str, int]] = ROWS) -> list[dict]:
    def job(row: dict[str, int]) -> tuple[float, dict]:
        with open(folder / "started.txt", "a") as log:
            log.write(f"{row['a']} {row['b']}\n")
        time.sleep(pause)
        return float(row["a"]), {"sum": row["a"] + row["b"]}

    return SharedStudy(folder, "grid", jobs).run(job, lambda: None)


def started(folder: Path) -> list[str]:
    path = folder / "started.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_outcomes_come_in_the_order_of_the_rows_and_are_not_computed_twice(tmp_path: Path) -> None:
    expected = [{"sum": row["a"] + row["b"]} for row in ROWS]
    assert work(tmp_path) == expected
    assert work(tmp_path) == expected
    assert len(started(tmp_path)) == len(ROWS)


def test_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(work(Path("study"))) == len(ROWS)


def test_workers_share_the_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(tmp_path, 0.1)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(started(tmp_path)) == sorted(f"{row['a']} {row['b']}" for row in ROWS)


def test_row_of_a_killed_worker_is_taken_over_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=work, args=(tmp_path, 60.0))
    worker.start()
    deadline = time.monotonic() + 30
    while not started(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    begun = time.monotonic()
    assert len(work(tmp_path)) == len(ROWS)
    assert time.monotonic() - begun < study_module.STALE_SECONDS / 2
    assert len(started(tmp_path)) == len(ROWS) + 1


def test_row_of_a_worker_elsewhere_is_taken_over_when_its_heartbeat_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(study_module, "HEARTBEAT_SECONDS", 0.05)
    other = SharedStudy(tmp_path, "grid", ROWS[:1], worker="another-machine-1-abc")

    class Vanished(BaseException):
        pass

    def vanish(row: dict[str, int]) -> tuple[float, dict]:
        raise Vanished

    beat = tmp_path / "worker-another-machine-1-abc"
    with pytest.raises(Vanished):
        other.run(vanish, lambda: None)
    beat.touch()  # the heartbeat's last trace
    begun = time.monotonic()
    assert work(tmp_path, jobs=ROWS[:1]) == [{"sum": 8}]
    assert time.monotonic() - begun > 0.4
