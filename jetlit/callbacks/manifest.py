"""The numbers of a fit."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from jetlit.results import RESULT_FILE, Result


class RunManifest(Callback):
    """Keeps a fit's numbers and its seconds, those before a resume included, and offers them as a `Result`.

    An old result.json is removed when a fit starts, since its presence says that the stage is finished.

    Args:
        folder: The stage's folder.
        stage: Its name in result.json.
        hash: Identifies the stage's config in result.json; None takes the hash of the fit's own config.
    """

    def __init__(self, folder: str, stage: str, hash: str | None = None) -> None:
        self.folder = Path(folder)
        self.stage = stage
        self.hash = hash
        self.metrics: dict[str, float] = {}
        self._train: dict[str, float] = {}
        self._earlier = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds that the fit has taken."""
        return self._earlier + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far, and the last numbers of the training steps."""
        return {"seconds": self.seconds, "train": self._train}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        self._earlier = state_dict["seconds"]
        self._train = state_dict.get("train", {})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock and remove an old result."""
        if stage == "fit":
            self._start = time.perf_counter()
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                (self.folder / RESULT_FILE).unlink(missing_ok=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count parameters and steps."""
        model: Any = pl_module.model
        parameters = list(model.parameters())
        self.metrics["parameters"] = sum(p.numel() for p in parameters)
        self.metrics["trainable_parameters"] = sum(p.numel() for p in parameters if p.requires_grad)
        self.metrics["steps"] = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember numbers that a fit resumed from here may not make again."""
        self._train |= {name: value for name, value in _numbers(trainer).items() if name.startswith("train/")}
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def gather(self, trainer: Trainer) -> None:
        """Add the trainer's callback metrics, which its next loop resets. Learning rates are left out."""
        self.metrics = self._train | self.metrics | _numbers(trainer)

    def result(self, config: dict[str, Any], seed: int | None, decision: Any) -> Result:
        """Return the numbers gathered so far beside a resolved config (JSON values) and the fit's decision."""
        metrics = dict(sorted(self.metrics.items()))
        return Result(self.stage, config, metrics, decision=decision, seed=seed, seconds=self.seconds)


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {
        name: value.item() if isinstance(value, torch.Tensor) else float(value)
        for name, value in trainer.callback_metrics.items()
        if not name.startswith("lr-")
    }
