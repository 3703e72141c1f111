"""The subcommands that measure models and print tables: `jetlit eval` and `jetlit bench`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from jetlit.pipeline import bench
from jetlit.pipeline.evaluate import EvaluateConfig, evaluate
from jetlit.pipeline.report.tables import Table as Cells
from jetlit.pipeline.report.tables import evaluation_table
from jetlit.results import unit_of, write_result
from jetlit.search.grid import PAPER_BILLIONS, PAPER_GRID


def eval(config: EvaluateConfig) -> None:
    """Score a model, write result.json and print the scores."""
    begun = time.monotonic()
    result = evaluate(config)
    write_result(config.out_dir, replace(result, seconds=time.monotonic() - begun))
    _show(evaluation_table(result.metrics))


def bench_params(config: bench.ParamsConfig) -> None:
    """Print a model's parameters, or table 2 of the paper and those of Jet-Nemotron-2B."""
    counts = bench.bench_params(config).metrics
    if config.model is not None:
        print(f"{counts['parameters']:,} parameters")
        return
    rows = []
    for row, printed in zip(PAPER_GRID, PAPER_BILLIONS, strict=True):
        count = counts[f"{row.name}/parameters"]
        shape = [str(row.key_dim), str(row.value_dim), str(row.heads)]
        rows.append([*shape, f"{count:,}", f"{count / 1e9:.2f}", f"{printed:.2f}"])
    _show((["d_K", "d_V", "heads", "parameters", "billions", "paper"], rows), "Table 2: Gated DeltaNet")
    print(f"Jet-Nemotron-2B: {counts['Jet-Nemotron-2B/parameters']:,} parameters")


def bench_generation(config: bench.GenerationConfig) -> None:
    """Print prefill and decode throughput."""
    _show_measured(bench.bench_generation(config).metrics)


def bench_training(config: bench.TrainingConfig) -> None:
    """Print training throughput."""
    _show_measured(bench.bench_training(config).metrics)


def _show_measured(metrics: Mapping[str, float]) -> None:
    rows = [[name, f"{value:,.0f}", unit_of(name)] for name, value in metrics.items()]
    _show((["measured", "value", "unit"], rows))


def _show(cells: Cells, title: str | None = None) -> None:
    header, rows = cells
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
