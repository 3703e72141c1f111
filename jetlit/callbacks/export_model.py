"""The trained model as a Hugging Face folder."""

from pathlib import Path
from typing import Any

import torch
from jetlit_data import load_tokenizer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedTokenizerBase

from jetlit.files import atomic_folder, check_replaceable
from jetlit.training.fsdp import is_sharded


class ExportModel(Callback):
    """Writes the model at the end of a fit, with the tokenizer of the data module if it has one.

    The folder appears whole or not at all. Nothing is written under `fast_dev_run`.

    Args:
        folder: The folder to write. An earlier one is replaced.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before the training that the folder may be written."""
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_replaceable(self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        weights = _gather_weights(trainer.strategy.model) if is_sharded(model) else None  # every process takes part
        if trainer.is_global_zero:
            tokenizer = load_tokenizer(data.tokenizer_path) if hasattr(data, "tokenizer_path") else None
            write_model(model, tokenizer, self.folder, weights)
        trainer.strategy.barrier("ExportModel")


def _gather_weights(recipe: Any) -> dict[str, Tensor]:
    """Return a sharded model's whole weights in float32 on the first process' CPU; empty on the others."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(recipe, options=options)
    return {
        name.removeprefix("model."): weight.float() if weight.dtype == torch.bfloat16 else weight
        for name, weight in weights.items()
    }


def write_model(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a model and its tokenizer to a folder, replacing it at once. A sharded model needs its whole `weights`.

    Raises:
        UserError: The file system refused the write.
    """
    with atomic_folder(folder) as written:
        model.save_pretrained(written, **({} if weights is None else {"state_dict": weights}))
        if tokenizer is not None:
            tokenizer.save_pretrained(written)
