"""Work that is done once: chains of stages that depend on each other, interrupted at any moment."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.once import MARKER, by_hand, once
from jetlit.results import Result, config_hash, read_result, write_result

NEEDS = {"one": (), "two": ("one",), "other": (), "three": ("two", "other")}


class Chain:
    """Stages of which each sums its own number and the results of those it needs, and leaves files behind."""

    def __init__(self, folder: Path, **numbers: int) -> None:
        self.folder = folder
        self.numbers = {"one": 1, "two": 2, "other": 5, "three": 3} | numbers
        self.ran: list[str] = []
        self.lines: list[str] = []
        self.fail_in: str | None = None

    def work(self, name: str) -> Result:
        self.ran.append(name)
        folder = self.folder / name
        (folder / "parts").mkdir(exist_ok=True)
        with open(folder / "steps.txt", "a") as steps:
            steps.write("step\n")
        if self.fail_in == name:
            raise KeyboardInterrupt
        earlier = [self.decision(need) for need in NEEDS[name]]
        return Result(name, {"number": self.numbers[name]}, {}, self.numbers[name] + sum(earlier), seed=0)

    def run(self) -> dict[str, str]:
        self.ran.clear()
        hashes: dict[str, str] = {}
        for name, needs in NEEDS.items():
            config = {"number": self.numbers[name], "path": str(self.folder / name)}
            key = {"config": config, "needs": {need: hashes[need] for need in needs}, "run_dir": str(self.folder)}
            hashes[name] = config_hash(key)
            once(
                self.folder / name,
                key,
                lambda name=name: self.work(name),
                lambda state, name=name: self.lines.append(f"{name}: {state}"),
                made=("steps.txt", "parts"),
            )
        return hashes

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
    assert "three: finished before, skipped" in chain.lines


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
    assert "two: resumes where it was interrupted" in chain.lines


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

    def cut_off(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_off)
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


def test_a_foreign_result_json_is_never_removed(chain: Chain) -> None:
    (chain.folder / "two").mkdir(parents=True)
    (chain.folder / "two" / "result.json").write_text('{"my": "numbers"}')
    with pytest.raises(UserError, match=r"two holds files that this run did not make"):
        chain.run()
    assert (chain.folder / "two" / "result.json").exists()


def test_a_run_of_the_earlier_version_keeps_its_markers_beside_the_folders(chain: Chain) -> None:
    hashes = chain.run()
    (chain.folder / ".stages").mkdir()
    for name in NEEDS:
        (chain.folder / name / MARKER).unlink()
        (chain.folder / ".stages" / f"{name}.json").write_text(json.dumps({"hash": hashes[name]}))
    assert chain.run() == hashes and chain.ran == []
    chain.numbers["three"] = 4
    chain.run()
    assert chain.ran == ["three"] and "three: its configuration or input changed, redone" in chain.lines


def test_a_result_of_a_command_of_its_own_is_refused_and_stays(chain: Chain) -> None:
    write_result(chain.folder / "one", Result("one", {}, {}, 9))
    with pytest.raises(UserError, match="holds files that this run did not make"):
        chain.run()
    assert chain.decision("one") == 9


def test_a_file_put_into_a_finished_folder_is_not_deleted(tmp_path: Path) -> None:
    def work() -> Result:
        (tmp_path / "a" / "made.txt").write_text("made")
        return Result("s", {}, {})

    once(tmp_path / "a", {"x": 1}, work)
    (tmp_path / "a" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds thesis.txt, which no stage made"):
        once(tmp_path / "a", {"x": 2}, work)
    assert (tmp_path / "a" / "thesis.txt").read_text() == "precious"
    (tmp_path / "a" / "thesis.txt").unlink()
    once(tmp_path / "a", {"x": 2}, work)


def test_a_disowned_folder_is_refused(tmp_path: Path) -> None:
    once(tmp_path / "a", {"x": 1}, lambda: Result("s", {}, {}))
    with by_hand(tmp_path / "a"):
        (tmp_path / "a" / "made.txt").write_text("by hand")
    with pytest.raises(UserError, match="did not make"):
        once(tmp_path / "a", {"x": 1}, lambda: Result("s", {}, {}))


def test_the_result_is_that_of_the_file(tmp_path: Path) -> None:
    def work() -> Result:
        return Result("s", {}, {"loss": float("nan"), "steps": 3}, (1, 2))

    first = once(tmp_path / "a", {"x": 1}, work)
    assert first.metrics == {"loss": None, "steps": 3} and first.decision == [1, 2] and first.seconds is not None
    assert once(tmp_path / "a", {"x": 1}, work) == first


def kill_me(folder: Path, at: int) -> None:
    """Work that is killed when its process opens its `at`-th file."""
    opened = 0
    replace = os.replace

    def count(*paths: object) -> None:
        nonlocal opened
        opened += 1
        if opened == at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)  # type: ignore[arg-type]

    os.replace = count  # type: ignore[assignment]
    chain = Chain(folder, one=7)
    chain.run()


@pytest.mark.parametrize("at", range(1, 10, 2))
def test_a_run_killed_while_it_replaces_a_file_is_completed(chain: Chain, at: int) -> None:
    chain.run()
    process = multiprocessing.get_context("fork").Process(target=kill_me, args=(chain.folder, at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    changed = Chain(chain.folder, one=7)
    changed.run()
    assert changed.decision("three") == 7 + 2 + 5 + 3
    assert all(changed.steps(name) <= 2 for name in NEEDS)
