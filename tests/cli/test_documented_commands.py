"""Every `jetlit` command of README and docs names a subcommand, options and configs that exist."""

import dataclasses
import importlib
import itertools
import re
import shlex
import typing
from pathlib import Path

import pytest

from jetlit.cli import FITS, SUBCOMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERAL = {"config", "print_config", "help"}


def commands(page: Path) -> list[str]:
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    blocks = [block for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.S) if language in ("", "bash")]
    fenced = [line for block in blocks for line in block.splitlines()]
    found = [line[line.index("jetlit ") :] for line in fenced if re.match(r"\s*([A-Z_]+=\S+ )*jetlit ", line)]
    return [*found, *re.findall(r"`(jetlit [a-z]+ [^`]*--[^`]+)`", text)]


COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_command_exists(page: str, command: str) -> None:
    words = shlex.split(command.removesuffix("&").strip(), comments=True)[1:]
    subcommand = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in SUBCOMMANDS), None)
    assert subcommand is not None or words[0].startswith("--"), f"{page}: {command}"
    configs = [value for option, value in itertools.pairwise(words) if option == "--config"]
    shipped = [value for value in configs if value.startswith("configs/") and not value.startswith("configs/mine")]
    assert all((ROOT / value).exists() for value in shipped), f"{page}: {command}"
    if subcommand is None or subcommand[0] in FITS:
        return
    module, _, name = SUBCOMMANDS[subcommand][1].rpartition(".")
    work = getattr(importlib.import_module(f"jetlit.{module}"), name)
    known = {field.name for field in dataclasses.fields(next(iter(typing.get_type_hints(work).values())))}
    options = {word[2:].partition("=")[0].partition(".")[0] for word in words if word.startswith("--")}
    assert options <= known | GENERAL, f"{page}: {command}"


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 15 and {"README.md", "scale.md", "your_own_model.md"} <= {page for page, _ in COMMANDS}
