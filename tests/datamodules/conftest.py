"""Small corpora of numbered blocks, and a model that only notes what it is given."""

from pathlib import Path

import pytest
import torch
from jetlit_data import CorpusSpec, prepare
from lightning.pytorch import LightningModule

BLOCK = 32


class Recorder(LightningModule):
    """Keeps the first token of every block it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.batches.append(batch["input_ids"].clone())
        return self.weight.sum() * 0

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.validated.append(batch["input_ids"].clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two corpora: "large" with 75 blocks or so in three chunks, "small" with 45; no block occurs twice."""
    folder: Path = tmp_path_factory.mktemp("corpora")
    specs = {
        "large": CorpusSpec("recall", max_tokens=BLOCK * 83, options={"pairs": 7, "queries": 8}),
        "small": CorpusSpec("recall", max_tokens=BLOCK * 51, options={"pairs": 5, "queries": 10}),
    }
    prepare(str(folder), specs, val_fraction=0.12, chunk_tokens=BLOCK * 29, progress=False)
    return {name: str(folder / name) for name in specs}
