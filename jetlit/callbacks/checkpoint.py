"""Checkpoints that are always whole, and finding the last one."""

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from jetlit.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a kill at any moment leaves the last one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """As in the base class; paths with a protocol (s3://) are left to it, object stores being atomic already."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_path(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class BackgroundCheckpointIO(AsyncCheckpointIO):
    """Writes checkpoints in a thread while training goes on, each whole or not at all.

    An old checkpoint is removed after its successor is written, and only if that went well. An error in writing shows
    at the next checkpoint or at the end.
    """

    def __init__(self) -> None:
        super().__init__(AtomicCheckpointIO())

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint once those asked for earlier are written."""
        self._ensure_setup()
        assert self._executor is not None
        self._executor.submit(self._remove, path)

    def _remove(self, path: Any) -> None:
        if self._error is None:
            super().remove_checkpoint(path)


class StageCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint of a fit, and writes one when a scheduler asks the process to end (SIGTERM).

    Args:
        dirpath: the folder; checkpoints are named by their step.
        every_n_train_steps: optimizer steps from one to the next.
        save_top_k: 1 keeps the newest alone, -1 all.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 100, save_top_k: int = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{step:08d}",
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            save_on_exception=True,
            enable_version_counter=False,
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at the end of the step in which a SIGTERM came; an error in mid-step leaves no state worth keeping."""
        if isinstance(exception, SIGTERMException):
            super().on_exception(trainer, pl_module, exception)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for checkpoints that are being written in the background, as Lightning's sharding strategies do not."""
        trainer.strategy.checkpoint_io.teardown()


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a folder, or None where there is none yet.

    A sharded checkpoint is a directory whose metadata is written last: a zip archive, whose end is its table.
    """
    whole = [path for path in Path(folder).glob("*.ckpt") if path.is_file() or is_zipfile(path / "meta.pt")]
    return max((path for path in whole if not path.name.startswith(".")), key=lambda path: path.name, default=None)
