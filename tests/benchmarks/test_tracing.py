"""benchmarks/tracing.py: intervals against a line of points, and a trace of a real step."""

import importlib.util
import random
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

SPEC = importlib.util.spec_from_file_location("tracing", Path(__file__).parents[2] / "benchmarks" / "tracing.py")
tracing = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tracing)


def points(intervals):
    return {point for start, end in intervals for point in range(start, end)}


def test_intervals_cover_the_points_they_cover():
    choice = random.Random(0)
    for _ in range(200):
        starts = [choice.randrange(40) for _ in range(choice.randrange(1, 9))]
        intervals = [(start, start + choice.randrange(1, 7)) for start in starts]
        covered = points(intervals)
        assert points(tracing.union(intervals)) == covered and tracing.length(intervals) == len(covered)
        assert points(tracing.gaps(intervals)) == set(range(min(covered), max(covered) + 1)) - covered


class Product(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def training_step(self, batch, batch_idx):
        for _ in range(1 + batch_idx):  # the step's number shows in what it does
            batch = self.layer(batch)
        return batch.square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_chosen_step_alone_is_traced():
    trace = tracing.StepTrace(3)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_steps=5, callbacks=[trace], **quiet)
    trainer.fit(Product(), DataLoader(torch.rand(10, 8), batch_size=2))
    summary = trace.summary()
    assert "No work of a GPU" in summary
    (line,) = (line for line in summary.splitlines() if line.endswith(" aten::addmm"))
    assert line.split()[1:3] == ["4", "x"]
