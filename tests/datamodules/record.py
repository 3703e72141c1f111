"""A training run in another process, which writes down the batches that each rank saw."""

import hashlib
import json
import multiprocessing
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from jetlit.datamodules import TokenDataModule
from tests.datamodules.conftest import BLOCK


def digest_of(block: torch.Tensor) -> str:
    """Return a block's short name."""
    return hashlib.sha256(str(block.tolist()).encode()).hexdigest()[:16]


class Writer(LightningModule):
    """Writes a line for every training batch: the step and the digest of each block."""

    def __init__(self, folder: Path, pause: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.folder, self.pause = folder, pause

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        digests = [digest_of(block) for block in batch["input_ids"]]
        with (self.folder / f"rank{self.global_rank}.jsonl").open("a") as log:
            log.write(json.dumps([self.global_step, digests]) + "\n")
        time.sleep(self.pause)
        return self.weight.sum() * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def start(data: Any, folder: Path, steps: int, **options: Any) -> BaseProcess:
    """Start a run in a forked process, which spares it the imports; see `_train` for the options."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_train, args=(data, folder, steps), kwargs=options)
    process.start()
    return process


def run(data: Any, folder: Path, steps: int, **options: Any) -> None:
    """Run to the end."""
    process = start(data, folder, steps, **options)
    process.join(timeout=120)
    assert process.exitcode == 0, (folder / "error.txt").read_text()


def _train(
    data: Any,
    folder: Path,
    steps: int,
    ranks: int = 1,
    workers: int = 0,
    batch_size: int = 4,
    resume: Path | None = None,
    pause: float = 0.0,
) -> None:
    torch.set_num_threads(1)  # the parent's pool of threads does not survive the fork
    try:
        Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp_fork" if ranks > 1 else "auto",
            max_steps=steps,
            callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(
            Writer(folder, pause),
            TokenDataModule(data, BLOCK, batch_size, num_workers=workers),
            ckpt_path=resume,
        )
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        raise
