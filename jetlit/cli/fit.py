"""`jetlit fit`, `jetlit validate` and `jetlit test`: LightningCLI over the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from jetlit.cli.parsing import print_config, split
from jetlit.errors import UserError
from jetlit.pipeline.fit import FitCLI, FitConfig
from jetlit.results import write_result

SUBCOMMANDS = ("fit", "validate", "test")


class HelpCLI(FitCLI):
    """Print the help that flags ask for, and exit.

    Args:
        flags: `--help`, `--model.help=NAME`.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        self._flags = flags
        super().__init__(FitConfig([]), build=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Let jsonargparse answer."""
        parser.parse_args(["--help" if flag == "--help_all" else flag for flag in self._flags])


def fit_config(argv: Sequence[str]) -> FitConfig:
    """Return the config of a command line, `fit` itself left out."""
    line = split(list(argv))
    return FitConfig(line.files, line.overrides)


def open_fit(argv: Sequence[str], build: bool = True) -> FitCLI:
    """Return the fit of a command line, `fit` itself left out, ready to start."""
    return FitCLI(fit_config(argv), build)


def run_fit(argv: Sequence[str]) -> FitCLI:
    """Run one fit, validation or test in this process; may be called any number of times.

    Args:
        argv: the subcommand (`fit`, `validate` or `test`) and its options.

    Returns:
        The finished fit, with `.trainer`, `.model`, `.datamodule`, `.config` and `.folder`.

    Raises:
        UserError: an argument is wrong, data or a model is missing, or the loss is not a number.
    """
    if not argv or argv[0] not in SUBCOMMANDS:
        raise UserError(f"Say what to do first: one of {', '.join(SUBCOMMANDS)}.")
    cli = open_fit(argv[1:])
    if argv[0] != "fit":
        cli.evaluate(argv[0])
        return cli
    result = cli.fit()
    if cli.trainer.is_global_zero and not cli.is_dev_run:
        write_result(cli.folder, result, cli.config.manifest.hash)
    return cli


def main(argv: Sequence[str]) -> None:
    """Run the command line, the subcommand included."""
    flags = split(list(argv[1:])).flags
    if any(not flag.startswith("--print_config") for flag in flags):
        HelpCLI(flags)
    if flags:
        cli = open_fit(argv[1:], build=False)
        print_config(cli.parser, cli.config, flags)
    run_fit(argv)
