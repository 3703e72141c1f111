"""What recipes stand on: sharding, optimizer and schedule, precision, checkpoints, termination."""

from jetlit.training.checkpoints import AtomicCheckpointIO, BackgroundCheckpointIO, check_checkpoint, last_checkpoint
from jetlit.training.logger import StageLogger
from jetlit.training.optimizer import WarmupCosine

__all__ = [
    "AtomicCheckpointIO",
    "BackgroundCheckpointIO",
    "StageLogger",
    "WarmupCosine",
    "check_checkpoint",
    "last_checkpoint",
]
