"""The report's figures and numbers in TensorBoard, beside the curves of the fits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter


def write_tensorboard(
    folder: Path, drawn: Mapping[str, Figure], results: Mapping[str, Mapping[str, Any]], text: str
) -> None:
    """Writes figures, every measured number and the report's text, in place of those of an earlier report.

    Args:
        folder: for the event files.
        drawn: figures by name.
        results: contents of result.json by stage.
        text: the report, Markdown.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for name, figure in drawn.items():
            writer.add_figure(name, figure)
        for stage, result in results.items():
            for name, found in result["metrics"].items():
                if isinstance(found["value"], int | float):
                    writer.add_scalar(f"result/{stage}/{name}", found["value"])
        writer.add_text("report", text)
