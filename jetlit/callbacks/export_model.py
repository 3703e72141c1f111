"""The trained model as a Hugging Face directory."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jetlit_data import load_tokenizer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.recipes.precision import widened
from jetlit.recipes.sharding import is_sharded


class ExportModel(Callback):
    """Writes the model and its tokenizer at fit end.

    The folder appears whole or not at all: it is filled under another name and then renamed.

    Args:
        folder: the directory to write; an earlier one is replaced.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `folder`."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        weights = widened(gather_weights(trainer)) if is_sharded(model) else None  # every process takes part
        if trainer.is_global_zero:
            tokenizer = load_tokenizer(data.tokenizer_path) if hasattr(data, "tokenizer_path") else None
            write_model(model, tokenizer, self.folder, weights)
        trainer.strategy.barrier("ExportModel")


def gather_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The whole weights of a sharded model, on the CPU of the first process; the others get an empty dictionary."""
    recipe: Any = trainer.strategy.model
    weights: dict[str, Any] = get_model_state_dict(
        recipe, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def write_model(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a model (anything with `save_pretrained`) and its tokenizer to `folder`, replacing it at once.

    Args:
        model: what to write.
        tokenizer: written beside it; None: none.
        folder: the directory.
        weights: in place of the model's own, where those are sharded.

    Raises:
        UserError: the file system refused the write.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            settings = {} if weights is None else {"state_dict": weights}
            model.save_pretrained(temporary, **settings)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            temporary.chmod(0o755)
            _replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"Could not write {folder} ({error}): free some space or choose another folder.") from error


def _replace(new: Path, folder: Path) -> None:
    """Put `new` in `folder`'s place; a directory cannot be replaced in one step, so the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
