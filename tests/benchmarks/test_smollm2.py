"""How processes side by side share the studies' fits; the fits themselves are too long for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORKER = """
import sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import smollm2
folder, name = Path(sys.argv[1]), sys.argv[2]
lab = smollm2.Lab.__new__(smollm2.Lab)
lab.out = folder / name
def job(number):
    place = folder / "jobs" / str(number)
    with lab.claim(place):
        if not (place / "done").exists():
            time.sleep(0.3)
            with open(folder / "log", "a") as log:
                log.write(f"{{number}}\\n")
            (place / "done").touch()
    return {{"square": number**2}}
lab.tabled("shared", "Shared", [({{"number": number}}, partial(job, number)) for number in range(7)])
"""


@pytest.mark.slow
def test_two_processes_share_the_jobs_and_end_with_the_same_table(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER.format(benchmarks=str(BENCHMARKS)), str(tmp_path)]
    processes = [subprocess.Popen([*command, name]) for name in ("first", "second")]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    tables = [json.loads((tmp_path / name / "smollm2_shared.json").read_text()) for name in ("first", "second")]
    assert tables[0]["rows"] == tables[1]["rows"] == [{"number": n, "square": n**2} for n in range(7)]
    assert sorted((tmp_path / "log").read_text().split()) == [str(n) for n in range(7)], "a job was done twice"
