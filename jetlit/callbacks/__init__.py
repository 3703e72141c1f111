"""Callbacks of a fit: speed and memory, NaN guard, task scores, checkpoints, export, result.json."""

from jetlit.callbacks.checkpoint import StageCheckpoint
from jetlit.callbacks.export_model import ExportModel
from jetlit.callbacks.manifest import RunManifest
from jetlit.callbacks.nan_guard import NanGuard
from jetlit.callbacks.progress_bar import StepProgressBar
from jetlit.callbacks.task_scores import TaskScores
from jetlit.callbacks.throughput import Throughput
from jetlit.errors import moved_names

__all__ = [
    "ExportModel",
    "NanGuard",
    "RunManifest",
    "StageCheckpoint",
    "StepProgressBar",
    "TaskScores",
    "Throughput",
]

__getattr__ = moved_names(
    __name__,
    {
        "AtomicCheckpointIO": "is jetlit.training.AtomicCheckpointIO now",
        "BackgroundCheckpointIO": "is jetlit.training.BackgroundCheckpointIO now",
        "StageLogger": "is jetlit.training.StageLogger now",
        "last_checkpoint": "is jetlit.training.last_checkpoint now",
    },
)
