"""Command lines: options and `--config` files become the arguments of a subcommand."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser

from jetlit.errors import UserError
from jetlit.pipeline.configs import arguments_parser, load_config, merge_configs, parse_config


@dataclasses.dataclass
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

    def merged(self) -> dict[str, Any]:
        """Return the files and the options that win over them as one mapping."""
        return merge_configs(self.files, self.overrides)


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


def call(function: Callable[..., None], argv: list[str], name: str = "") -> None:
    """Run a subcommand with the arguments of a command line and of its `--config` files.

    Args:
        function: takes one config dataclass, or typed arguments; documented in Google style.
        argv: options. A word in front of them is the first argument's value, where that is required text
            (`jetlit teacher smollm2`).
        name: of the subcommand, for help.

    Raises:
        UserError: an argument is unknown, missing or of a wrong type.
    """
    hints = [hint for key, hint in typing.get_type_hints(function).items() if key != "return"]
    if len(hints) == 1 and dataclasses.is_dataclass(hints[0]):
        function(parse(hints[0], argv, name))  # type: ignore[arg-type]
    else:
        parse(function, argv, name)  # which calls it


def parse(kind: Callable[..., Any], argv: list[str], name: str = "") -> Any:
    """Call a config dataclass, or a function, with the arguments of a command line.

    Raises:
        SystemExit: after `--help` or `--print_config`.
        UserError: an argument is unknown, missing or of a wrong type.
    """
    first = next(iter(inspect.signature(kind).parameters.values()), None)
    takes_text = first is not None and first.annotation in (str, "str") and first.default is first.empty
    if first and takes_text and argv and not argv[0].startswith("-"):
        argv = [f"--{first.name}", *argv]
    line = split(argv)
    parser = arguments_parser(kind, name)
    if any(not flag.startswith("--print_config") for flag in line.flags):
        parser.add_argument("--config", help="A YAML file of the arguments above; of several, later ones win.")
        parser.add_argument("--print_config", help="Print the arguments as YAML and exit.")
        parser.parse_args([flag for flag in line.flags if not flag.startswith("--print_config")])
    if line.flags:
        print_config(parser, parse_config(parser, line.merged()), line.flags)
    return load_config(kind, line.merged(), name)


def print_config(parser: ArgumentParser, config: Any, flags: list[str]) -> None:
    """Print a parsed config as `--print_config` asks for, and exit.

    Raises:
        SystemExit: always.
    """
    print(parser.dump(config, skip_unset=False, skip_default="skip_default" in flags[-1]), end="")
    raise SystemExit(0)
