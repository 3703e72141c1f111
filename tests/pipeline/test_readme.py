"""The README's own commands and code, on the miniature run instead of the demo's."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from jetlit.cli import main
from tests.pipeline.runs import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Commands over what the demo leaves behind; others need a cluster or data of the reader's own.
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("jetlit ") and ("quickstart" in line)
]
CODE = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def demo(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme") / "run"
    shutil.copytree(undisturbed, folder)
    return folder


def in_miniature(text: str, demo: Path) -> str:
    return text.replace("configs/quickstart", str(TINY.parent)).replace("runs/quickstart", str(demo))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, demo: Path) -> None:
    argv = shlex.split(in_miniature(command, demo))[1:]
    if argv[0] != "generate":
        argv += ["--run_dir", str(demo)]
    assert main(argv) == 0


@pytest.mark.parametrize("code", CODE)
def test_code_runs(code: str, demo: Path) -> None:
    exec(compile(in_miniature(code, demo), "README.md", "exec"), {})


def test_the_readme_shows_commands_and_code() -> None:
    assert {"postnas", "fit", "search", "generate"} <= {command.split()[1] for command in COMMANDS} and CODE


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http|#)[^)#]+)", README))
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists(), link


@pytest.mark.parametrize("anchor", re.findall(r"\]\(#([^)]+)\)", README))
def test_anchor_is_a_heading(anchor: str) -> None:
    assert anchor in {line.lstrip("# ").lower().replace(" ", "-") for line in README.splitlines() if line[:1] == "#"}


def test_make_knows_the_readmes_targets() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make (\w+)", README)) <= targets
