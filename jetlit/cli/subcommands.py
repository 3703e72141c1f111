"""The subcommands beside fits: each parses a config, calls a function of the pipeline and prints what came out."""

from __future__ import annotations

import importlib
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from transformers.utils.logging import disable_progress_bar

from jetlit.cli.parsing import parse
from jetlit.files import check_folder, check_replaceable, claim_folder, existing_paths
from jetlit.once import UNREAD, by_hand, helps, once
from jetlit.results import Result, unit_of, write_result

_WIDEST = 10_000  # characters of a line of a file or pipe
# Subcommands whose result goes to OUT_DIR/result.json.
_WRITTEN = ("data", "search", "export", "eval")
# Subcommands that replace OUT_DIR as a whole.
_REPLACED = ("export", "convert", "consolidate")


def run(words: tuple[str, ...], function: str, argv: list[str]) -> None:
    """Run a subcommand.

    Args:
        words: the subcommand.
        function: dotted name of a function inside `jetlit`; its first argument's annotation is the config to parse.
        argv: the options.

    Raises:
        UserError: an option or the work is wrong.
    """
    module, _, name = function.rpartition(".")
    work = getattr(importlib.import_module(f"jetlit.{module}"), name)
    config: Any = parse(next(iter(typing.get_type_hints(work).values())), argv, " ".join(words))
    inputs = existing_paths(asdict(config), *UNREAD, words=True)
    if hasattr(config, "out_dir"):
        check = check_replaceable if words[0] in _REPLACED else check_folder
        check(config.out_dir, *inputs)
    if words == ("teacher",):
        _teacher(config, work)
        return
    if words == ("postnas",):
        # Bars of small models' files, dozens of them, would hide those of the stages.
        disable_progress_bar()
    if words[0] not in _WRITTEN or (words[0] == "search" and helps(config.out_dir, config.values())):
        result = work(config)
    else:
        with by_hand(config.out_dir):
            result = _work_and_write(config, work)
    if words in _SHOW:
        _SHOW[words](config, result)


def _work_and_write(config: Any, work: Callable[[Any], Result]) -> Result:
    begun = time.monotonic()
    result = work(config)
    if helps(config.out_dir, config.values()):
        return result  # a run has taken the search over meanwhile
    claim_folder(config.out_dir)
    write_result(config.out_dir, replace(result, seconds=time.monotonic() - begun))
    return result


def _teacher(config: Any, prepare: Callable[[Any], Result]) -> None:
    states: list[str] = []
    inputs = existing_paths([config.name], words=True)
    once(config.out_dir, config.values(), lambda: prepare(config), states.append, inputs=inputs, made=("model",))
    before = states[0].startswith("finished")
    print(f"{config.out_dir}/model was prepared before." if before else f"Wrote {config.out_dir}/model.")


def _placement(_: Any, result: Result) -> None:
    kept = ", ".join(map(str, result.decision["full_attention"])) or "none"
    done, naive = (result.metrics[f"layer_evaluations/{name}"] for name in ("done", "naive"))
    print(f"Full attention stays in layers {kept}{_equals(result)}.")
    print(f"{done} layer evaluations instead of {naive} ({naive / done:.1f}x).")


def _ranking(_: Any, result: Result) -> None:
    print(f"Layers, the most useful first: {', '.join(map(str, result.decision['order']))}.")


def _blocks(_: Any, result: Result) -> None:
    print(f"The search took block {result.decision['block']}{_equals(result)}.")


def _hardware(_: Any, result: Result) -> None:
    row = result.config["rows"][result.decision["row"]]
    shape = f"d_K {row['key_dim']}, d_V {row['value_dim']}, {row['heads']} heads"
    print(f"The search took shape {shape} of {result.decision['block']}{_equals(result)}.")


def _equals(result: Result) -> str:
    """Name the candidates that are as good as the chosen one."""
    others = result.decision.get("not_distinguishable_from")  # no earlier version says it
    return f", not distinguishable from {', '.join(others)}" if others else ""


def _written(config: Any, _: object) -> None:
    print(f"Wrote {config.out_dir}.")


def _evaluation(_: Any, result: Result) -> None:
    from jetlit.pipeline.report.tables import evaluation_table

    _print_table(*evaluation_table(result.metrics))


def _parameters(config: Any, result: Result) -> None:
    from jetlit.search.grid import PAPER_BILLIONS, PAPER_GRID

    counts = result.metrics
    if config.model is not None:
        print(f"{counts['parameters']:,} parameters")
        return
    rows = []
    for row, printed in zip(PAPER_GRID, PAPER_BILLIONS, strict=True):
        count = counts[f"{row.name}/parameters"]
        shape = [str(row.key_dim), str(row.value_dim), str(row.heads)]
        rows.append([*shape, f"{count:,}", f"{count / 1e9:.2f}", f"{printed:.2f}"])
    _print_table(["d_K", "d_V", "heads", "parameters", "billions", "paper"], rows, "Table 2: Gated DeltaNet")
    print(f"Jet-Nemotron-2B: {counts['Jet-Nemotron-2B/parameters']:,} parameters")


def _measured(_: Any, result: Result) -> None:
    rows = [[name, f"{value:,.0f}", unit_of(name)] for name, value in result.metrics.items()]
    _print_table(["measured", "value", "unit"], rows)


def _report(config: Any, _: object) -> None:
    folder = Path(config.run_dir)
    print(f"Report: {folder / 'report.html'}\nNumbers: {folder / 'report.json'}")


def _postnas(config: Any, results: Mapping[str, Result]) -> None:
    folder = Path(config.run_dir)
    figures = ("placement/heatmap.png", "placement/curve.png", "blocks/table.png", "hardware/pareto.png")
    drawn = ", ".join(str(folder / name) for name in figures if (folder / name).exists())
    print()
    _report(config, None)
    if drawn:
        print(f"Figures: {drawn}")
    print(f"TensorBoard: tensorboard --logdir {folder}")
    if "export" in results:
        print(f"Exported model: {folder / 'export'}")


_SHOW: dict[tuple[str, ...], Callable[[Any, Any], None]] = {
    ("consolidate",): _written,
    ("search", "placement"): _placement,
    ("search", "ranking"): _ranking,
    ("search", "blocks"): _blocks,
    ("search", "hardware"): _hardware,
    ("convert",): _written,
    ("eval",): _evaluation,
    ("bench", "params"): _parameters,
    ("bench", "generation"): _measured,
    ("bench", "training"): _measured,
    ("report",): _report,
    ("postnas",): _postnas,
}


def _print_table(header: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table with every text whole: as wide as it is, in a terminal broken into lines."""
    table = Table(*(Column(name, overflow="fold") for name in header), title=title)
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=_WIDEST)).print(table)
