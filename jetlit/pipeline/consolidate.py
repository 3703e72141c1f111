"""The model of a fit's checkpoint, sharded or not, as a Hugging Face directory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jetlit_data import load_tokenizer
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from jetlit.callbacks.export_model import write_model
from jetlit.errors import UserError
from jetlit.pipeline.fit import FitCLI, FitConfig
from jetlit.training import check_checkpoint, last_checkpoint

# One process builds the model, whatever the fit ran on.
_HERE = {
    "trainer.strategy": "auto",
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.logger": False,
    "trainer.plugins": None,
}


@dataclass(frozen=True)
class ConsolidateConfig:
    """Write the model of a fit's checkpoint, sharded or not, as a Hugging Face directory.

    For a fit that is still running or was stopped; a finished one has written its model itself.

    Args:
        fit: folder of the fit, with its config.yaml.
        out_dir: the directory to write; an existing one is replaced.
        checkpoint: one of the fit's; by default the newest.
    """

    fit: str
    out_dir: str
    checkpoint: str | None = None


def consolidate(config: ConsolidateConfig) -> Path:
    """Write `config.out_dir`; return the checkpoint that was read, whose name says its step.

    Raises:
        UserError: the fit or its checkpoint is missing, or the file system refused the write.
    """
    saved = Path(config.fit) / "config.yaml"
    if not saved.exists():
        raise UserError(f"{config.fit} is no fit's folder (it has no config.yaml): give the folder of a fitted stage.")
    path = Path(config.checkpoint) if config.checkpoint else last_checkpoint(Path(config.fit) / "checkpoints")
    if path is None or not path.exists():
        missing = path or f"in {config.fit}"
        raise UserError(f"There is no checkpoint {missing}: correct the path, or let the fit reach one.")
    cli = FitCLI(FitConfig([saved], _HERE))
    cli.model.configure_model()
    check_checkpoint(path)
    try:
        cli.model.load_state_dict(_weights(path))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path} is no checkpoint of this fit ({str(error).splitlines()[0]}).") from error
    tokenizer = load_tokenizer(cli.datamodule.tokenizer_path) if hasattr(cli.datamodule, "tokenizer_path") else None
    write_model(cli.model.model, tokenizer, Path(config.out_dir))
    return path


def _weights(path: Path) -> dict[str, Any]:
    """Return the weights of a checkpoint, a file or a sharded one's folder.

    Raises:
        UserError: it is not one, it is damaged, or it holds more than plain data and tensors.
    """
    if path.is_dir() and not (path / ".metadata").exists():
        raise UserError(f"The folder {path} is no sharded checkpoint: give one of the fit's.")
    try:
        if not path.is_dir():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        with tempfile.TemporaryDirectory() as folder:
            # Lightning's own consolidation does not read what ModelParallelStrategy writes.
            whole = Path(folder) / "whole.ckpt"
            dcp_to_torch_save(path, whole)
            return torch.load(whole, map_location="cpu", weights_only=False)["state_dict"]  # just written
    except (
        AssertionError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        UnpicklingError,
        CheckpointException,
    ) as error:
        # PyTorch's exception of a sharded checkpoint prints the tracebacks of all processes.
        sharded = isinstance(error, CheckpointException)
        reason = "it is no sharded checkpoint" if sharded else " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"The checkpoint {path} cannot be read ({reason:.200}): give another of the fit's.") from error
