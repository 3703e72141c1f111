"""The `jetlit` command: one small file a subcommand, imported when it is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys

from jetlit.errors import UserError

# Words of the command -> module, what it does. The function has the words' name, joined by "_".
SUBCOMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("fit",): ("fit", "train a recipe (LightningCLI)"),
    ("validate",): ("fit", "held-out losses of a checkpoint (LightningCLI)"),
    ("test",): ("fit", "the same through the test loop (LightningCLI)"),
    ("consolidate",): ("consolidate", "write the model of a fit's checkpoint, sharded or not"),
    ("teacher",): ("stages", "prepare a pre-trained teacher"),
    ("data",): ("stages", "turn text into litdata token chunks"),
    ("search", "placement"): ("stages", "find the layers that keep full attention"),
    ("search", "ranking"): ("stages", "the baseline: rank layers by restoring one at a time"),
    ("search", "blocks"): ("stages", "train candidate blocks alike and take the most accurate"),
    ("search", "hardware"): ("stages", "grid over a block's shape under a constant state size"),
    ("export",): ("stages", "write a Hugging Face directory"),
    ("convert",): ("stages", "turn a Llama, Qwen2 or Qwen3 checkpoint into a hybrid"),
    ("generate",): ("generate", "continue a prompt, with tokens/s"),
    ("eval",): ("models", "score a model on tasks"),
    ("bench", "params"): ("models", "parameter counts from shapes alone, table 2 among them"),
    ("bench", "generation"): ("models", "prefill and decode tokens/s on this machine"),
    ("bench", "training"): ("models", "training tokens/s on this machine"),
    ("report",): ("postnas", "write the report of a run"),
    ("postnas",): ("postnas", "run all stages in order"),
}
FITS = ("fit", "validate", "test")
EXIT_WRONG = 2
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; by default the command line's.

    Returns:
        The exit status: 0, or 2 after one sentence on standard error saying what is wrong and how to fix it, or 130
        after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except UserError as error:
        print(f"jetlit: {error}", file=sys.stderr)
        return EXIT_WRONG
    except KeyboardInterrupt:
        print("jetlit: interrupted; run the same command again to resume.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"jetlit {importlib.metadata.version('jetlit')}")
        return
    words = next((tuple(arguments[:n]) for n in (2, 1) if tuple(arguments[:n]) in SUBCOMMANDS), None)
    if words is None:
        beginning = [" ".join(known) for known in SUBCOMMANDS if known[0] == arguments[0]]
        if beginning:
            raise UserError(f"`jetlit {arguments[0]}` needs a second word: {' or '.join(beginning)}.")
        known = ", ".join(" ".join(known) for known in SUBCOMMANDS)
        raise UserError(f"There is no subcommand {arguments[0]!r}: use one of {known}.")
    rest = arguments[len(words) :]
    if words[0] in FITS and not {"-h", "--help"}.isdisjoint(rest):
        print(importlib.import_module("jetlit.cli.fit_help").page(words[0]))
        return
    module = importlib.import_module(f"jetlit.cli.{SUBCOMMANDS[words][0]}")
    if words[0] in FITS:
        module.main([words[0], *rest])
    else:
        parsing = importlib.import_module("jetlit.cli.parsing")
        parsing.call(getattr(module, "_".join(words)), rest, " ".join(words))


def usage() -> str:
    """Return the list of subcommands."""
    lines = [f"  jetlit {' '.join(words):18} {text}" for words, (_, text) in SUBCOMMANDS.items()]
    first = "PostNAS: from a full-attention decoder to a searched hybrid."
    last = "jetlit SUBCOMMAND --help says more; jetlit --version prints the version."
    return "\n".join([first, "", *lines, "", last])
