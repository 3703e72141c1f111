"""Verbs are typed functions: their command line, YAML keys and help come from their signatures (jsonargparse)."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from jetlit.errors import UserError


def call(function: Callable[..., None], argv: list[str]) -> None:
    """Runs a verb with the arguments of a command line and of its `--config` files.

    Args:
        function: the verb; its parameters are typed and documented, Google style.
        argv: arguments; `${run_dir}` and the like are filled in across all sources. A word in front of all options is
            the text that the verb cannot do without (`jetlit teacher smollm2`).

    Raises:
        UserError: an argument is unknown, missing or of a wrong type.
    """
    first = next(iter(inspect.signature(function).parameters.values()))
    if argv and not argv[0].startswith("-") and first.annotation is str and first.default is first.empty:
        argv = [f"--{first.name}", *argv]
    function(**parse_arguments(function, argv))


def parse_arguments(function: Callable[..., None], argv: list[str]) -> dict[str, Any]:
    """Returns the arguments that `call` would give the verb, without running it."""
    parser = _parser(function)
    arguments = parser.instantiate(_parse(parser, argv)).as_dict()
    arguments.pop("config", None)
    return arguments


def resolved_arguments(function: Callable[..., None], argv: list[str]) -> dict[str, Any]:
    """Returns a verb's arguments as plain values, without those that do not bear on its result; nothing is run."""
    parser = _parser(function)
    arguments = json.loads(parser.dump(_parse(parser, argv), skip_unset=False, format="json"))
    for key in ("config", "hash"):
        arguments.pop(key, None)
    return arguments


def _parser(function: Callable[..., None]) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"jetlit {function.__name__.replace('_', ' ')}", parser_mode="omegaconf+", exit_on_error=False
    )
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file of the arguments below.")
    parser.add_function_arguments(function)
    return parser


def _parse(parser: ArgumentParser, argv: list[str]) -> Namespace:
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise UserError(one_sentence(str(error))) from None


def one_sentence(message: str) -> str:
    """Makes one sentence of jsonargparse's message, which may be a tree of attempts."""
    refused = re.search(r"Option '([^']+)' is not accepted", message) or re.search(
        r"unrecognized arguments: (\S+)", message
    )
    if refused:
        return f"There is no option {refused[1].lstrip('-')!r}: correct its spelling or leave it out."
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    return f"The configuration is wrong: {text}"
