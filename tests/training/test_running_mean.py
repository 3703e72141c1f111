"""Means of losses: weighted by batch, and never a wait for the device in a training step.

What would wait on a GPU is seen on any machine: a tensor made from the host's numbers, and a value asked of a tensor.
"""

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from jetlit.models import Architecture
from jetlit.recipes import Distillation
from jetlit.training.logger import RunningMeans

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default, torch.ops.aten.nonzero.default}


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen, self.found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        if func in WAITS:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


class WatchedStep(Callback):
    """Looks at the third step, which is not logged."""

    def __init__(self):
        self.waits = Waits()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self.waits.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.waits.__exit__(None, None, None)


def test_every_batch_counts_by_its_weight():
    means = RunningMeans()
    generator = torch.Generator().manual_seed(0)
    losses, weights = torch.rand(5, 2, generator=generator), [3, 3, 1, 3, 2]
    for _ in range(2):  # the second time anew
        for (a, b), weight in zip(losses, weights):
            means.update({"a": a, "b": b}, weight)
        taken = means.take("val")
        expected = (losses.double() * torch.tensor(weights)[:, None]).sum(0) / sum(weights)
        assert {name: float(value) for name, value in taken.items()} == {
            "val/a": pytest.approx(float(expected[0])),
            "val/b": pytest.approx(float(expected[1])),
        }
    assert means.take("val") == {}


def test_an_update_keeps_no_graph():
    means, weight = RunningMeans(), torch.ones((), requires_grad=True)
    means.update({"loss": 2 * weight}, 1)
    assert not means.take("train")["train/loss"].requires_grad


def test_a_step_that_is_not_logged_never_waits_for_the_device(run_dir):
    Architecture(["gated_delta_net", "attn"], {"gated_delta_net": {}}).save(run_dir / "delta.json")
    recipe = Distillation(
        str(run_dir / "teacher/model"),
        str(run_dir / "delta.json"),
        feature_weight=0.5,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),  # Adam off the GPU reads its count of steps
    )
    step = WatchedStep()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=4,
        callbacks=[step],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(recipe, DataLoader([{"input_ids": torch.arange(20) + row} for row in range(12)], batch_size=3))
    assert step.waits.seen and step.waits.found == []
