"""How processes side by side share the studies' fits; the fits themselves are too long for a test."""

import importlib
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def work(laboratory, folder: Path, name: str) -> None:
    lab = laboratory.Lab.__new__(laboratory.Lab)
    lab.out = folder / name

    def job(number: int) -> dict[str, int]:
        place = folder / "jobs" / str(number)
        with lab.claim(place):
            if not (place / "done").exists():
                time.sleep(0.3)
                with open(folder / "log", "a") as log:
                    log.write(f"{number}\n")
                (place / "done").touch()
        return {"square": number**2}

    lab.tabled("shared", "Shared", [({"number": number}, partial(job, number)) for number in range(7)])


def test_two_processes_share_the_jobs_and_end_with_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    laboratory = importlib.import_module("smollm2_lab")
    context = multiprocessing.get_context("fork")  # spares the imports
    processes = [context.Process(target=work, args=(laboratory, tmp_path, name)) for name in ("first", "second")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    tables = [json.loads((tmp_path / name / "smollm2_shared.json").read_text()) for name in ("first", "second")]
    assert tables[0]["rows"] == tables[1]["rows"] == [{"number": n, "square": n**2} for n in range(7)]
    assert sorted((tmp_path / "log").read_text().split()) == [str(n) for n in range(7)], "a job was done twice"
