"""What a model can do, beside its held-out loss."""

from functools import cached_property
from typing import Any

from jetlit_data import load_tokenizer
from lightning.pytorch import Callback, LightningModule, Trainer

from jetlit.recipes.flat_sharding import outside_of_steps
from jetlit.tasks import Task, build_task, evaluate_task


class TaskScores(Callback):
    """Scores the model on tasks at every validation, logged as `task/NAME/METRIC`.

    Args:
        specs: tasks as `jetlit.tasks.build_task` takes them; None: no tasks.
        tokenizer: for the tasks' texts; None: that of the training data.
    """

    def __init__(self, specs: list[dict[str, Any]] | None = None, tokenizer: str | None = None) -> None:
        self.specs = specs or []
        self.tokenizer = tokenizer
        self._data: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the tasks now, so that a mistake in them shows before the training and not after it."""
        if self.specs:
            self._data = trainer.datamodule  # type: ignore[attr-defined]
            _ = self.tasks

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks, built once."""
        tokenizer = load_tokenizer(self.tokenizer or self._data.tokenizer_path)
        return [build_task(spec, tokenizer) for spec in self.specs]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and log."""
        if self.specs and not trainer.sanity_checking:
            model: Any = pl_module.model
            for task in self.tasks:
                with outside_of_steps(trainer), trainer.precision_plugin.forward_context():
                    score = evaluate_task(model, task)
                values = {"objective": score.objective, **score.metrics}
                pl_module.log_dict({f"task/{task.name}/{name}": float(value) for name, value in values.items()})
