"""Checkpoints that are always whole, and the search for the last one."""

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from jetlit.errors import UserError
from jetlit.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill at any moment leaves the last one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; writes to an object store (s3://) are atomic by themselves."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_path(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint; a damaged one is a UserError."""
        if "://" not in str(path):
            check_checkpoint(path)
        return super().load_checkpoint(path, *args, **kwargs)


class BackgroundCheckpointIO(AsyncCheckpointIO):
    """Writes checkpoints in a thread while training continues, each whole or not at all.

    An old checkpoint is removed once its successor is written, and only if that succeeded. A failed write raises at
    the next checkpoint or at the end of the fit.
    """

    def __init__(self) -> None:
        super().__init__(AtomicCheckpointIO())

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint once the writes submitted earlier are done."""
        self._ensure_setup()
        assert self._executor is not None
        self._executor.submit(self._remove, path)

    def _remove(self, path: Any) -> None:
        if self._error is None:
            super().remove_checkpoint(path)


def last_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest whole checkpoint of a folder, or None if there is none.

    A sharded checkpoint is a directory whose metadata is written last. The metadata is a zip archive, which ends with
    its table of contents.
    """
    whole = [path for path in Path(folder).glob("*.ckpt") if path.is_file() or is_zipfile(path / "meta.pt")]
    return max((path for path in whole if not path.name.startswith(".")), key=lambda path: path.name, default=None)


def check_checkpoint(path: str | Path) -> None:
    """Check that a checkpoint is whole, by the sums that PyTorch's archive holds of each of its parts.

    Raises:
        UserError: it is none, or damaged. Of a sharded one only its metadata is checked.
    """
    file = Path(path) / "meta.pt" if Path(path).is_dir() else Path(path)
    try:
        with ZipFile(file) as archive:
            damaged = archive.testzip()
            parts = {name.rpartition("/")[2] for name in archive.namelist()}
    except (BadZipFile, OSError, zlib.error) as error:
        raise UserError(f"{path} is no checkpoint, or a damaged one ({error}): resume from another.") from None
    if damaged is not None or "data.pkl" not in parts:
        raise UserError(f"{path} is damaged ({damaged or 'data.pkl is missing'}): resume from another checkpoint.")
