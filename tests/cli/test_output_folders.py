"""Whatever a subcommand is told to write to, nothing is lost that jetlit did not write there itself."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from jetlit_data import load_tokenizer

from jetlit.cli import main
from jetlit.files import MARK
from jetlit.models import Architecture, SuperNetwork
from tests.models.small import byte_teacher

TASKS = '--tasks=[{"kind": "recall", "documents": 2, "pairs": 2, "queries": 2}]'
CONFIGS = Path(__file__).parents[1] / "pipeline" / "tiny"
FITS = f"--fit_configs={json.dumps([str(CONFIGS / name) for name in ('common.yaml', 'candidate.yaml')])}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's models and files, none written by jetlit."""
    folder = tmp_path_factory.mktemp("sources")
    teacher = byte_teacher(3)
    for name, model in (("teacher", teacher), ("supernet", SuperNetwork(teacher, ("gla",)))):
        model.save_pretrained(folder / name)
        load_tokenizer("bytes").save_pretrained(folder / name)
    Architecture(["gla", "attn", "gla"]).save(folder / "placement.json")
    (folder / "fit").mkdir()
    (folder / "fit" / "config.yaml").write_text("{}")
    (folder / "a.txt").write_text("text")
    return folder


def commands(sources: Path) -> dict[str, tuple[list[str], str, Path]]:
    """By subcommand: arguments, the option that says where to write, and what is read."""
    teacher, supernet, placement = sources / "teacher", sources / "supernet", sources / "placement.json"
    models, search = [f"--teacher={teacher}"], [f"--teacher={teacher}", FITS, TASKS]
    grid = ["--state_size=32", "--key_dims=[4]", "--value_dims=[8]", "--heads=[1]", f"--architecture={placement}"]
    corpus = json.dumps({"text": {"source": str(sources / "a.txt")}})
    fit = [f"--config={CONFIGS / name}" for name in ("common.yaml", "candidate.yaml")]
    fit += [f"--model.teacher={teacher}", f"--model.architecture={placement}"]
    stages = json.dumps({"data": [str(CONFIGS / "data.yaml")]})
    return {
        "data": ([f"--corpora={corpus}"], "out_dir", sources / "a.txt"),
        "teacher": ([str(teacher)], "out_dir", teacher),
        "search placement": ([f"--supernet={supernet}", TASKS, "--budget=1"], "out_dir", supernet),
        "search blocks": ([*search, '--blocks={"gla": {}}', f"--placement={placement}"], "out_dir", teacher),
        "search hardware": ([*search, *grid], "out_dir", teacher),
        "search ranking": ([*models, FITS, "--budgets=[1]"], "out_dir", teacher),
        "export": ([f"--model={teacher}"], "out_dir", teacher),
        "convert": ([*models, f"--architecture={placement}"], "out_dir", teacher),
        "consolidate": ([f"--fit={sources / 'fit'}"], "out_dir", sources / "fit"),
        "eval": ([f"--model={teacher}", TASKS], "out_dir", teacher),
        "bench generation": ([f"--model={teacher}", "--context=40", "--device=cpu"], "cache", teacher),
        "report": ([], "run_dir", teacher),
        "postnas": ([f"--stages={stages}", f"--teacher={teacher}"], "run_dir", teacher),
        "fit": (fit, "stage", teacher),
    }


REFUSED = re.compile("jetlit: .*(choose (another|a new|an empty|a) |The stage .* is no folder in)")
NAMES = list(commands(Path("/")))


def digest(folder: Path) -> str:
    """Of all files, folders, links, contents and permissions."""
    found = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found.update(f"{path} {path.lstat().st_mode} {content!r}".encode())
    return found.hexdigest()


def places(tmp_path: Path) -> dict[str, Path]:
    """Make what somebody may name by mistake."""
    home = tmp_path / "home"
    for folder in ("thesis", "config"):
        (home / folder).mkdir(parents=True)
    # Files of these names are what jetlit would write.
    files = ("thesis.txt", "result.json", "report.md", "report.json", "config.json", "model.safetensors", ".once.json")
    for file in files:
        (home / "thesis" / file).write_text("{}")
    (home / "config" / "config.yaml").write_text("mine: 1")
    (home / "fit").mkdir()
    (home / "fit" / "config.yaml").write_text("mine: 1")
    (home / "link").symlink_to("thesis")
    return {
        "folder": home / "thesis",
        "file": home / "thesis" / "thesis.txt",
        "inside a file": home / "thesis" / "thesis.txt" / "out",
        "link": home / "link",
        "here": Path("."),
        "parent": home,
        "root": Path("/"),
    }


def written_to(place: Path, option: str) -> list[str]:
    """Return the arguments that name a place."""
    if option != "stage":
        return [f"--{option}={place}"]
    return [f"--run_dir={place.absolute().parent}", f"--stage={place.absolute().name}"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_somebodys_is_lost(
    name: str, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, option, read = commands(sources)[name]
    named = places(tmp_path)
    if name == "fit":  # builds the model first
        named = {kind: named[kind] for kind in ("folder", "file", "link")}
    for kind, place in named.items():
        monkeypatch.chdir(tmp_path / "home" / "thesis")
        before = digest(tmp_path), digest(sources)
        assert main([*name.split(), *arguments, *written_to(place, option)]) == 2, kind
        said = capsys.readouterr().err
        assert REFUSED.search(said), f"{name} into {kind}: {said}"
        assert (digest(tmp_path), digest(sources)) == before, f"{name} into {kind}: {said}"
    before = digest(sources)
    assert main([*name.split(), *arguments, *written_to(read, option)]) == 2
    assert REFUSED.search(capsys.readouterr().err) and digest(sources) == before


REPLACED = ("convert", "export")


@pytest.mark.parametrize("name", REPLACED)
def test_a_folder_of_its_own_is_replaced_but_not_with_a_file_put_into_it(
    name: str, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, option, _ = commands(sources)[name]
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    command = [*name.split(), *arguments, f"--{option}={tmp_path / 'out'}"]
    for _ in range(2):
        assert main(command) == 0, capsys.readouterr().err
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / MARK).exists()
    (tmp_path / "disk" / "notes.txt").write_text("precious")
    before = digest(tmp_path)
    assert main(command) == 2
    assert "holds notes.txt, which jetlit did not write there" in capsys.readouterr().err
    assert digest(tmp_path) == before


def test_an_architecture_that_is_a_folder_is_one_sentence(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--teacher={sources / 'teacher'}", f"--architecture={sources}", f"--out_dir={tmp_path / 'out'}"]
    assert main(["convert", *arguments]) == 2
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


def test_a_stage_outside_of_the_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = [f"--config={CONFIGS / name}" for name in ("common.yaml", "teacher.yaml")]
    for stage in ("../../x", "/x"):
        assert main(["fit", *config, f"--run_dir={tmp_path / 'run'}", f"--stage={stage}"]) == 2
        assert "is no folder in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
