"""Command lines: options and `--config` files become the arguments of a subcommand."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from jetlit.errors import UserError
from jetlit.pipeline.configs import arguments_parser, load_config, merge_configs, parse_config

T = TypeVar("T")


@dataclass
class CommandLine:
    """A command line taken apart.

    Attributes:
        files: of `--config`.
        overrides: the other options in order, each a dotted name and a text.
        flags: what asks for a print: `--help`, `--model.help=NAME`, `--print_config`.
    """

    files: list[str]
    overrides: list[tuple[str, str]]
    flags: list[str]


def split(argv: list[str]) -> CommandLine:
    """Take a command line apart.

    Raises:
        UserError: a word is no option, or an option has no value.
    """
    found = CommandLine([], [], [])
    words = iter(argv)
    for word in words:
        option, equals, text = word.partition("=")
        name = {"-c": "config", "-h": "help"}.get(option, option.removeprefix("--"))
        if option == name:
            raise UserError(f"{word!r} is no option: options begin with two dashes.")
        if name in ("help", "help_all", "print_config"):
            found.flags.append(f"--{name}{equals}{text}")
            continue
        value = text if equals else next(words, None)
        if name.endswith(".help"):
            found.flags.append(f"--{name}={value}" if value else f"--{name}")
        elif value is None or (not equals and value.startswith("--")):
            raise UserError(f"The option --{name} has no value: write --{name}=VALUE.")
        elif name == "config":
            found.files.append(value)
        else:
            found.overrides.append((name, value))
    return found


def parse(kind: type[T], argv: list[str], name: str = "") -> T:
    """Return the config of a command line and of its `--config` files.

    Args:
        kind: a config dataclass.
        argv: options. A word in front of them is the first field's value, where that is required text
            (`jetlit teacher smollm2`).
        name: name of the subcommand, for help.

    Raises:
        SystemExit: after `--help` or `--print_config`.
        UserError: an argument is unknown, missing or of a wrong type.
    """
    first = next(iter(inspect.signature(kind).parameters.values()))
    takes_text = first.annotation in (str, "str") and first.default is first.empty
    if takes_text and argv and not argv[0].startswith("-"):
        argv = [f"--{first.name}", *argv]
    line = split(argv)
    parser = arguments_parser(kind, name)
    if any(flag.startswith("--help") for flag in line.flags):
        parser.add_argument("--config", help="A YAML file of the arguments above; of several, later ones win.")
        parser.add_argument("--print_config", help="Print the arguments as YAML and exit.")
        parser.parse_args(["--help"])
    config = merge_configs(line.files, line.overrides)
    if line.flags:
        print_config(parser, parse_config(parser, config), line.flags)
    return load_config(kind, config, name)


def print_config(parser: ArgumentParser, config: Any, flags: list[str]) -> None:
    """Print a parsed config as `--print_config` asks for, and exit.

    Raises:
        SystemExit: always.
    """
    print(parser.dump(config, skip_unset=False, skip_default="skip_default" in flags[-1]), end="")
    raise SystemExit(0)
