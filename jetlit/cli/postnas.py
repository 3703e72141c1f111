"""`jetlit postnas` and `jetlit report`."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from jetlit.pipeline.postnas import PostnasConfig
from jetlit.pipeline.postnas import postnas as run
from jetlit.pipeline.report.report import ReportConfig
from jetlit.pipeline.report.report import report as run_report


def postnas(config: PostnasConfig) -> None:
    """Run all stages in order and write the report."""
    # Bars of small models' files, dozens of them, would hide those of the stages.
    disable_progress_bar()
    results = run(config)
    folder = Path(config.run_dir)
    figures = ("placement/heatmap.png", "placement/curve.png", "blocks/table.png", "hardware/pareto.png")
    drawn = ", ".join(str(folder / name) for name in figures if (folder / name).exists())
    print(f"\nReport: {folder / 'report.md'}\nNumbers: {folder / 'report.json'}")
    if drawn:
        print(f"Figures: {drawn}")
    print(f"TensorBoard: tensorboard --logdir {folder}")
    if "export" in results:
        print(f"Exported model: {folder / 'export'}")


def report(config: ReportConfig) -> None:
    """Write the report of a run."""
    run_report(config)
