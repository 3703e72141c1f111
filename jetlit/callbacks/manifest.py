"""result.json of a fit."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from jetlit.recipes.flat_sharding import whole_shape
from jetlit.results import RESULT_FILE


class RunManifest(Callback):
    """Gathers a fit's numbers, and writes result.json once all else is done.

    An old result.json is removed when the fit starts: its presence says that the stage is finished.

    Args:
        folder: the stage's folder.
        stage: its name in result.json.
        hash: what the stage is recognised by; by default the hash of the fit's own config.
    """

    def __init__(self, folder: str, stage: str, hash: str | None = None) -> None:
        self.folder = Path(folder)
        self.stage = stage
        self.hash = hash
        self.metrics: dict[str, float] = {}
        self._earlier = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time the fit has taken, that before a resume included."""
        return self._earlier + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """The time taken goes on after a resume."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was written."""
        self._earlier = state_dict["seconds"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock and take back an old result."""
        if stage == "fit":
            self._start = time.perf_counter()
            if trainer.is_global_zero:
                (self.folder / RESULT_FILE).unlink(missing_ok=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what was trained, for how long."""
        model: Any = pl_module.model
        parameters = list(model.parameters())
        self.metrics["parameters"] = sum(whole_shape(p).numel() for p in parameters)
        self.metrics["trainable_parameters"] = sum(whole_shape(p).numel() for p in parameters if p.requires_grad)
        self.metrics["steps"] = trainer.global_step

    def gather(self, trainer: Trainer) -> None:
        """Add the trainer's present callback metrics, which its next loop resets."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith("lr-"):
                continue  # the schedule's, not a measurement
            self.metrics[name] = value.item() if isinstance(value, torch.Tensor) else float(value)
