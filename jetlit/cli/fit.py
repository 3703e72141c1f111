"""`jetlit fit`, `jetlit validate` and `jetlit test`: LightningCLI over the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from jetlit.cli import FITS
from jetlit.cli.parsing import print_config, split
from jetlit.errors import UserError
from jetlit.once import by_hand
from jetlit.pipeline.config_errors import one_sentence
from jetlit.pipeline.fit import FitCLI, FitConfig
from jetlit.results import write_result


class _HelpCLI(FitCLI):
    """Print the help that the config's `flags` ask for (`--help`, `--model.help=NAME`), and exit."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            parser.parse_args(["--help" if flag == "--help_all" else flag for flag in args["flags"]])
        except ArgumentError as error:
            raise UserError(one_sentence(str(error))) from None


def open_fit(argv: Sequence[str], build: bool = True) -> FitCLI:
    """Return the fit of a command line, `fit` itself left out, ready to start."""
    line = split(list(argv))
    return FitCLI(FitConfig(line.files, line.overrides), build)


def run_fit(argv: Sequence[str]) -> FitCLI:
    """Run one fit, validation or test in this process; may be called any number of times.

    Args:
        argv: the subcommand (`fit`, `validate` or `test`) and its options.

    Returns:
        The finished fit, with `.trainer`, `.model`, `.datamodule`, `.config` and `.folder`.

    Raises:
        UserError: an argument is wrong, data or a model is missing, or the loss is not a number.
    """
    if not argv or argv[0] not in FITS:
        raise UserError(f"Say what to do first: one of {', '.join(FITS)}.")
    cli = open_fit(argv[1:])
    if argv[0] != "fit":
        cli.evaluate(argv[0])
        return cli
    if not cli.trainer.is_global_zero or cli.is_dev_run:
        cli.fit()
        return cli
    with by_hand(cli.folder):
        result = cli.fit()
        write_result(cli.folder, result, cli.config.manifest.hash)
    return cli


def main(argv: Sequence[str]) -> None:
    """Run the command line, the subcommand included."""
    flags = split(list(argv[1:])).flags
    nameless = next((flag for flag in flags if flag.endswith(".help")), None)
    if nameless:
        raise UserError(f"{nameless} needs the name of a class: {nameless} NAME, such as --model.help Distillation.")
    if any(not flag.startswith("--print_config") for flag in flags):
        _HelpCLI(FitConfig([], {"flags": flags}), build=False)
    if flags:
        cli = open_fit(argv[1:], build=False)
        print_config(cli.parser, cli.config, flags)
    run_fit(argv)
