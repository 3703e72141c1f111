import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.pipeline.lock import run_lock
from jetlit.pipeline.postnas import stage_needs
from jetlit.pipeline.stages import Run, Stage
from jetlit.results import read_result, write_result


class Chain:
    """Three stages: each sums its own number and the results of those it needs, and leaves files behind."""

    def __init__(self, folder: Path, **numbers: int) -> None:
        self.folder = folder
        self.numbers = {"one": 1, "two": 2, "other": 5, "three": 3} | numbers
        self.ran: list[str] = []
        self.lines: list[str] = []
        self.fail_in: str | None = None

    def stage(self, name: str, needs: tuple[str, ...] = ()) -> Stage:
        def config() -> dict:
            return {"number": self.numbers[name], "path": str(self.folder / name), "run_dir": str(self.folder)}

        def run(hash: str) -> None:
            self.ran.append(name)
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            with open(folder / "steps.txt", "a") as steps:
                steps.write("step\n")
            if self.fail_in == name:
                raise KeyboardInterrupt
            earlier = [read_result(self.folder / need)["decision"] for need in needs]
            total = self.numbers[name] + sum(earlier)
            write_result(
                folder, stage=name, config=config(), metrics={}, decision=total, seed=0, seconds=0.0, hash=hash
            )

        return Stage(name, needs, config, run)

    def run(self) -> dict[str, str]:
        self.ran.clear()
        stages = [
            self.stage("one"),
            self.stage("two", ("one",)),
            self.stage("other"),
            self.stage("three", ("two", "other")),
        ]
        return Run(self.folder, stages, self.lines.append).run()

    def decision(self, name: str) -> int:
        return read_result(self.folder / name)["decision"]

    def steps(self, name: str) -> int:
        return len((self.folder / name / "steps.txt").read_text().split())


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "run")


def test_stages_run_in_order_and_finished_ones_are_skipped(chain: Chain) -> None:
    chain.run()
    assert chain.ran == ["one", "two", "other", "three"]
    assert chain.decision("three") == 1 + 2 + 5 + 3
    chain.run()
    assert chain.ran == []
    assert "[4/4] three: finished before, skipped" in chain.lines


def test_a_changed_config_redoes_what_depends_on_it_from_nothing(chain: Chain) -> None:
    chain.run()
    chain.numbers["two"] = 20
    chain.run()
    assert chain.ran == ["two", "three"]
    assert chain.decision("three") == 1 + 20 + 5 + 3
    assert chain.steps("two") == 1  # the old files are gone
    assert chain.steps("one") == 1


def test_an_interrupted_stage_goes_on_with_its_files(chain: Chain) -> None:
    chain.fail_in = "two"
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    chain.fail_in = None
    chain.run()
    assert chain.ran == ["two", "other", "three"]
    assert chain.steps("two") == 2
    assert "[2/4] two: goes on where it was interrupted" in chain.lines


def test_an_interrupted_stage_whose_config_then_changes_starts_over(chain: Chain) -> None:
    chain.fail_in = "two"
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    chain.fail_in, chain.numbers["two"] = None, 7
    chain.run()
    assert chain.steps("two") == 1


def test_going_back_to_an_earlier_config_never_takes_another_configs_files(chain: Chain) -> None:
    chain.run()
    chain.numbers["two"], chain.fail_in = 20, "two"
    with pytest.raises(KeyboardInterrupt):
        chain.run()
    chain.numbers["two"], chain.fail_in = 2, None
    chain.run()
    assert chain.ran == ["two"]  # the same outcome as before, so that "three" still holds
    assert chain.steps("two") == 1


def test_an_interrupted_removal_is_completed(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.run()
    chain.numbers["one"] = 10

    def half(folder: Path) -> None:
        (folder / "result.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            chain.run()
    chain.numbers["one"] = 1  # even the old config does not take the half-removed folder
    chain.run()
    assert chain.steps("one") == 1 and chain.ran == ["one"]


def test_a_moved_run_keeps_its_hashes(chain: Chain, tmp_path: Path) -> None:
    hashes = chain.run()
    shutil.move(chain.folder, tmp_path / "elsewhere")
    moved = Chain(tmp_path / "elsewhere")
    assert moved.run() == hashes and moved.ran == []


def test_files_that_no_stage_made_are_never_removed(chain: Chain) -> None:
    (chain.folder / "two").mkdir(parents=True)
    (chain.folder / "two" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"two holds files that this run did not make"):
        chain.run()
    assert (chain.folder / "two" / "thesis.txt").exists()


def test_a_result_copied_into_place_does_not_count_as_finished(chain: Chain) -> None:
    chain.run()
    result = json.loads((chain.folder / "two" / "result.json").read_text())
    result["hash"] = "0" * 64
    (chain.folder / "two" / "result.json").write_text(json.dumps(result))
    chain.run()
    assert chain.ran == ["two"]


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


def test_a_pretrained_teacher_comes_before_the_data_and_all_else_stays() -> None:
    own, pretrained = stage_needs(False), stage_needs(True)
    assert list(own)[:2] == ["data", "teacher"] and list(pretrained)[:2] == ["teacher", "data"]
    assert pretrained["teacher"] == () and pretrained["data"] == ("teacher",)
    assert list(pretrained)[2:] == list(own)[2:] and all(pretrained[name] == own[name] for name in list(own)[2:])
