"""Callbacks of a fit: speed and memory, NaN guard, checkpoints, export, result.json."""

from jetlit.callbacks.checkpoint import (
    AtomicCheckpointIO,
    BackgroundCheckpointIO,
    StageCheckpoint,
    last_checkpoint,
)
from jetlit.callbacks.export_model import ExportModel
from jetlit.callbacks.logger import StageLogger
from jetlit.callbacks.manifest import RunManifest
from jetlit.callbacks.nan_guard import NanGuard
from jetlit.callbacks.progress_bar import StepProgressBar
from jetlit.callbacks.task_scores import TaskScores
from jetlit.callbacks.throughput import Throughput

__all__ = [
    "AtomicCheckpointIO",
    "BackgroundCheckpointIO",
    "ExportModel",
    "NanGuard",
    "RunManifest",
    "StageCheckpoint",
    "StageLogger",
    "StepProgressBar",
    "TaskScores",
    "Throughput",
    "last_checkpoint",
]
