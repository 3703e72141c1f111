"""TensorBoard curves of a fit."""

from lightning.pytorch.loggers import TensorBoardLogger


class StageLogger(TensorBoardLogger):
    """Writes a fit's curves into one folder, over a resume too.

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)

    def begin_at(self, step: int) -> None:
        """Take back what an earlier process logged at `step` and later, so that a resumed curve has no seam."""
        self._kwargs["purge_step"] = step
