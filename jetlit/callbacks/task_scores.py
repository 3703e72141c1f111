"""Scores on tasks, beside the held-out loss."""

from typing import Any

from jetlit_data import load_tokenizer
from lightning.pytorch import Callback, LightningModule, Trainer

from jetlit.errors import UserError
from jetlit.models import SuperNetwork
from jetlit.tasks import Task, build_task, evaluate_task


class TaskScores(Callback):
    """Scores the model on tasks at every validation. Scores are logged as `task/NAME/METRIC`.

    Of a super network a path is scored that depends on the seed and the task's name alone.

    Args:
        specs: Tasks as `jetlit.tasks.build_task` takes them; None is no tasks.
        tokenizer: Tokenizer of the tasks' texts; None takes that of the data module.
    """

    def __init__(self, specs: list[dict[str, Any]] | None = None, tokenizer: str | None = None) -> None:
        self.specs = specs or []
        self.tokenizer = tokenizer
        self.tasks: list[Task] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the tasks, so that a mistake in them shows before the training.

        Raises:
            UserError: A task is wrong, or there is no tokenizer.
        """
        if self.specs and not self.tasks:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            path = self.tokenizer or getattr(data, "tokenizer_path", None)
            if path is None:
                raise UserError("The data has no tokenizer for the tasks' texts: give TaskScores a tokenizer.")
            tokenizer = load_tokenizer(path)
            self.tasks = [build_task(spec, tokenizer) for spec in self.specs]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and log."""
        if trainer.sanity_checking:
            return
        model: Any = pl_module.model
        for task in self.tasks:
            if isinstance(model, SuperNetwork):  # its active path is that of this process's last batch
                recipe: Any = pl_module
                model.sample_active_subnet(recipe.generator("task", task.name), recipe.even_budgets)
            with trainer.precision_plugin.forward_context():
                score = evaluate_task(model, task)
            values = {"objective": score.objective, **score.metrics}
            pl_module.log_dict({f"task/{task.name}/{name}": float(value) for name, value in values.items()})
