"""Work that is done once: chains of stages that depend on each other, interrupted at any moment."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from jetlit.errors import UserError
from jetlit.files import claim_folder
from jetlit.once import MARKER, by_hand, helps, once
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


def leave(folder: Path, *names: str) -> Result:
    """Work that leaves files."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return Result("s", {}, {})


def test_a_file_put_into_an_interrupted_folder_is_not_deleted(tmp_path: Path) -> None:
    folder, made = tmp_path / "a", ("steps/*", "model")

    def interrupted() -> Result:
        leave(folder, "steps/1", "model/weights")
        raise KeyboardInterrupt

    for name in ("thesis.txt", "steps.txt", "models/mine"):
        with pytest.raises(KeyboardInterrupt):
            once(folder, {"x": 1}, interrupted, made=made)
        leave(folder, name)
        with pytest.raises(UserError, match=rf"holds {name}, which no stage made: move it away"):
            once(folder, {"x": 2}, interrupted, made=made)
        assert (folder / name).read_text() == name and (folder / "steps/1").exists()
        (folder / name).unlink()
    once(folder, {"x": 2}, lambda: leave(folder, "steps/2"), made=made)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "result.json", "steps"]
    assert [path.name for path in (folder / "steps").iterdir()] == ["2"]


def test_a_file_put_deep_into_a_finished_folder_is_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    once(folder, {"x": 1}, lambda: leave(folder, "steps/1"))
    leave(folder, "steps/notes.txt")
    with pytest.raises(UserError, match=r"holds steps/notes.txt, which no stage made"):
        once(folder, {"x": 2}, lambda: leave(folder))


def test_a_folder_on_another_disk_behaves_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "a"
    folder.parent.mkdir()
    (tmp_path / "disk").mkdir()
    folder.symlink_to("../disk")
    for x in (1, 2, 2, 3):
        once(folder, {"x": x}, lambda x=x: leave(folder, f"{x}.txt"))
        files = {path.name for path in (tmp_path / "disk").iterdir()}
        assert folder.is_symlink() and files >= {f"{x}.txt", "result.json"} and f"{x - 1}.txt" not in files
    (tmp_path / "elsewhere").mkdir()
    (folder / "steps").symlink_to(tmp_path / "elsewhere")
    once(folder, {"x": 4}, lambda: leave(folder, "steps/1"), made=("steps/*",))
    assert (folder / "steps").is_symlink() and (tmp_path / "elsewhere" / "1").exists()


def test_a_link_to_somebodys_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    leave(tmp_path / "home", "thesis.txt")
    (tmp_path / "a").symlink_to("home")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="did not make"):
        once(tmp_path / "a", {}, lambda: leave(tmp_path / "a"))
    for place in ("file", "file/inside"):
        with pytest.raises(UserError, match="file is a file"):
            once(tmp_path / place, {}, lambda: leave(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_work_whose_input_changed_is_redone_and_says_so(tmp_path: Path) -> None:
    folder, lines = tmp_path / "run" / "a", []
    (tmp_path / "run" / "teacher").mkdir(parents=True)

    def go(x: int = 1) -> None:
        inputs = [str(tmp_path / "run" / "teacher")]
        key = {"x": x, "run_dir": str(tmp_path / "run")}
        once(folder, key, lambda: leave(folder, "model"), lines.append, inputs=inputs)

    for content, state in {
        "one": "begins",
        "two": "its input ${run_dir}/teacher changed, redone",
    }.items():
        (tmp_path / "run" / "teacher" / "weights").write_text(content)
        go()
        go()
        assert lines[-2:] == [state, "finished before, skipped"]
    (folder / "result.json").unlink()
    (tmp_path / "run" / "teacher" / "weights").write_text("three")
    go()
    assert lines[-1] == "its input ${run_dir}/teacher changed, redone", "nor is interrupted work resumed"


def test_work_of_the_earlier_version_noted_no_inputs_and_is_still_read(tmp_path: Path) -> None:
    folder, lines = tmp_path / "a", []
    key = {"x": 1}
    (tmp_path / "input").write_text("")
    once(folder, key, lambda: leave(folder, "model"))
    (folder / MARKER).write_text(json.dumps({"hash": config_hash(key), "files": ["model"]}))
    once(folder, key, lambda: leave(folder), lines.append, inputs=[str(tmp_path / "input")], artifacts=["model"])
    assert lines == ["finished before, skipped"]


def test_an_artifact_that_was_changed_is_named_and_one_that_is_lost_is_made_again(tmp_path: Path) -> None:
    folder, lines = tmp_path / "a", []

    def go() -> None:
        once(folder, {}, lambda: leave(folder, "model/weights", "log"), lines.append, artifacts=("model",))

    go()
    (folder / "log").write_text("read by nobody")
    go()
    (folder / "model/weights").write_text("weig")
    with pytest.raises(UserError, match=r"a/model is not what its stage wrote: bring that file back, or delete"):
        go()
    shutil.rmtree(folder / "model")
    go()
    assert lines[-1] == "resumes where it was interrupted" and (folder / "model/weights").read_text() == "model/weights"


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"hash"'])
def test_a_damaged_marker_is_named_and_nothing_is_removed(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "a"
    once(folder, {"x": 1}, lambda: leave(folder, "model"))
    (folder / MARKER).write_text(content)
    for x in (1, 2):
        with pytest.raises(UserError, match=r"once.json is damaged.*delete .*a to have its work redone"):
            once(folder, {"x": x}, lambda: leave(folder))
    assert (folder / "model").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"hash": 3}'])
def test_a_damaged_result_is_made_again(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "a"
    expected = once(folder, {"x": 1}, lambda: leave(folder, "model"))
    (folder / "result.json").write_text(content)
    found = once(folder, {"x": 1}, lambda: leave(folder, "model"))
    assert found.metrics == expected.metrics and read_result(folder) is not None


def test_work_by_hand_that_is_refused_leaves_the_folder_to_once(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    once(folder, {"x": 1}, lambda: leave(folder, "model"))
    with pytest.raises(UserError), by_hand(folder):
        raise UserError("The option is wrong.")
    once(folder, {"x": 1}, lambda: pytest.fail("it was finished"))
    with pytest.raises(UserError, match="The disk"), by_hand(folder):
        leave(folder, "other")
        raise UserError("The disk is full.")
    with pytest.raises(UserError, match="did not make"):
        once(folder, {"x": 1}, lambda: leave(folder))


def test_a_run_joins_a_search_by_hand_of_the_same_settings(tmp_path: Path) -> None:
    folder, lines = tmp_path / "a", []
    config = {"blocks": ["gla"], "out_dir": str(folder)}
    claim_folder(folder, search=config_hash(config))
    leave(folder, "jobs/1")
    for other in ({"config": {"blocks": ["jet"]}}, {"other": 1}):
        with pytest.raises(UserError, match="did not make"):
            once(folder, other, lambda: leave(folder))
    assert not helps(folder, config), "nobody else searches"

    def search() -> Result:
        assert helps(folder, config), "by now, the one by hand only helps"
        with pytest.raises(UserError, match="searches in .* with other settings"):
            helps(folder, {"blocks": ["jet"]})
        return leave(folder, "architecture.json")

    once(folder, {"config": config}, search, lines.append)
    assert lines == ["resumes what a search by hand began"] and not helps(folder, config)
