"""The `jetlit` command: parts are imported when a subcommand asks for them."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys

from jetlit.cli.fit_help import page
from jetlit.errors import UserError

# Words of the command -> what it does, and the function of `jetlit` that it calls.
SUBCOMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("fit",): ("train a recipe (LightningCLI)", "cli.fit.main"),
    ("validate",): ("held-out losses of a checkpoint (LightningCLI)", "cli.fit.main"),
    ("test",): ("the same through the test loop (LightningCLI)", "cli.fit.main"),
    ("consolidate",): ("write the model of a fit's checkpoint, sharded or not", "pipeline.consolidate.consolidate"),
    ("teacher",): ("prepare a pre-trained teacher", "pipeline.teacher.prepare_teacher"),
    ("data",): ("turn text into litdata token chunks", "pipeline.data.prepare_data"),
    ("search", "placement"): ("find the layers that keep full attention", "pipeline.placement.search_placement"),
    ("search", "ranking"): ("the baseline: rank layers by restoring one at a time", "pipeline.ranking.rank_layers"),
    ("search", "blocks"): ("train candidate blocks alike and take the best", "pipeline.blocks.search_blocks"),
    ("search", "hardware"): (
        "grid over a block's shape under a constant state size",
        "pipeline.hardware.search_hardware",
    ),
    ("export",): ("write a Hugging Face directory", "pipeline.export.export"),
    ("convert",): ("turn a Llama, Qwen2 or Qwen3 checkpoint into a hybrid", "pipeline.convert.convert"),
    ("generate",): ("continue a prompt, with tokens/s", "cli.generate.generate"),
    ("eval",): ("score a model on tasks", "pipeline.evaluate.evaluate"),
    ("bench", "params"): ("parameter counts from shapes alone, table 2 among them", "pipeline.bench.bench_params"),
    ("bench", "generation"): ("prefill and decode tokens/s on this machine", "pipeline.bench.bench_generation"),
    ("bench", "training"): ("training tokens/s on this machine", "pipeline.bench.bench_training"),
    ("report",): ("write the report of a run", "pipeline.report.report.report"),
    ("postnas",): ("run all stages in order", "pipeline.postnas.postnas"),
}
# Subcommands whose config imports no training stack, so that their help is quick.
QUICK_HELP = {
    ("bench", "params"): "ParamsConfig",
    ("bench", "generation"): "GenerationConfig",
    ("bench", "training"): "TrainingConfig",
    ("report",): "ReportConfig",
    ("postnas",): "PostnasConfig",
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
    except RecursionError:
        print("jetlit: A value is nested too deeply: write it flatter.", file=sys.stderr)
        return EXIT_WRONG
    except (MemoryError, OSError, RuntimeError) as error:
        sentence = _of_the_machine(error)
        if sentence is None:
            raise
        print(f"jetlit: {sentence}", file=sys.stderr)
        return EXIT_WRONG
    except KeyboardInterrupt:
        print("jetlit: interrupted; run the same command again to resume.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _of_the_machine(error: Exception) -> str | None:
    """Return the sentence for memory or a disk that refuses what was asked for; None for other errors."""
    if isinstance(error, OSError):
        place = f"{error.filename} cannot be used" if error.filename else "The operating system refuses"
        return f"{place} ({error.strerror or error}): correct the path, its permissions, or free some space."
    # PyTorch raises a RuntimeError where the CPU's allocator fails, a subclass of it for a GPU's.
    if isinstance(error, MemoryError) or re.search("out of memory|not enough memory|can't allocate", str(error)):
        return "There is not enough memory: take a smaller model, batch, length or chunk."
    return None


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
    wants_help = not {"-h", "--help"}.isdisjoint(rest)
    if wants_help and words in QUICK_HELP:
        config = getattr(importlib.import_module("jetlit.pipeline.command_configs"), QUICK_HELP[words])
        importlib.import_module("jetlit.cli.parsing").parse(config, rest, " ".join(words))
    elif words[0] not in FITS:
        importlib.import_module("jetlit.cli.subcommands").run(words, SUBCOMMANDS[words][1], rest)
    elif not wants_help:
        importlib.import_module("jetlit.cli.fit").main([words[0], *rest])
    else:
        print(page(words[0]))


def usage() -> str:
    """Return the list of subcommands."""
    lines = [f"  jetlit {' '.join(words):18} {text}" for words, (text, _) in SUBCOMMANDS.items()]
    first = "PostNAS: from a full-attention decoder to a searched hybrid."
    last = "jetlit SUBCOMMAND --help says more; jetlit --version prints the version."
    return "\n".join([first, "", *lines, "", last])
