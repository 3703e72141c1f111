"""A loss that is no number, or jumps, never reaches the weights."""

import pytest
import torch
from lightning.pytorch import Callback

from jetlit.cli.fit import open_fit
from jetlit.errors import UserError
from jetlit.results import read_result
from jetlit.training import last_checkpoint
from tests.recipes import tiny


class Spoil(Callback):
    """Multiplies the loss of some steps by a number, through a hook on the model's last norm."""

    def __init__(self, steps, factor):
        self.steps, self.factor = steps, factor
        self.before = {}
        self.after = {}

    def on_fit_start(self, trainer, pl_module):
        def spoil(module, args, output):
            return output * (self.factor if trainer.training and trainer.global_step in self.steps else 1.0)

        pl_module.model.model.norm.register_forward_hook(spoil)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before[batch_idx] = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after[batch_idx] = [p.detach().clone() for p in pl_module.parameters()]

    def moved(self, step):
        return any(not torch.equal(a, b) for a, b in zip(self.before[step], self.after[step]))


def spoiled_fit(run_dir, steps, factor, *options):
    cli = open_fit(tiny.command(run_dir, "teacher", "--ckpt_path", "none", *options)[1:])
    spoil = Spoil(steps, factor)
    cli.trainer.callbacks.append(spoil)
    return cli, spoil


def test_a_nan_stops_with_a_sentence_and_the_batch(run_dir):
    cli, spoil = spoiled_fit(run_dir, {4}, float("nan"))
    with pytest.raises(UserError, match=r"The loss of step 4 is nan; its batch is saved in .*lower the learning rate"):
        cli.fit()
    [batch] = torch.load(run_dir / "teacher/bad_batch_step4_rank0.pt")
    assert batch["input_ids"].shape == (3, 24)
    assert read_result(run_dir / "teacher") is None
    assert last_checkpoint(run_dir / "teacher/checkpoints").name == "step=00000003.ckpt"
    assert spoil.moved(3)


def test_a_nan_is_skipped_if_so_configured(run_dir):
    cli, spoil = spoiled_fit(run_dir, {2}, float("nan"), "--nan_guard.action", "skip")
    with pytest.warns(UserWarning, match="The loss of step 2 is nan.*skipped"):
        cli.fit()
    assert [spoil.moved(step) for step in range(6)] == [True, True, False, True, True, True]
    assert all(p.isfinite().all() for p in cli.model.parameters())
    assert (run_dir / "teacher/bad_batch_step2_rank0.pt").exists()


def test_too_many_skips_in_a_row_stop(run_dir):
    cli, _ = spoiled_fit(run_dir, {1, 2, 3}, float("nan"), "--nan_guard.action", "skip", "--nan_guard.max_skips", "2")
    with pytest.raises(UserError, match="step 3 is nan"):
        cli.fit()


def test_a_spike_is_a_fault_only_if_asked_for(run_dir):
    cli, spoil = spoiled_fit(run_dir, {3}, 1000.0)
    cli.fit()
    assert spoil.moved(3)
    guard = ["--nan_guard.spike_factor", "4"]
    cli, spoil = spoiled_fit(run_dir, {3}, 1000.0, *guard)
    with pytest.raises(UserError, match="The loss of step 3 is .*, over 4 times its running mean of"):
        cli.fit()
    [batch] = torch.load(run_dir / "teacher/bad_batch_step3_rank0.pt")
    assert batch["input_ids"].shape == (3, 24)
    assert read_result(run_dir / "teacher") is None and list(spoil.after) == [0, 1, 2]
    cli, spoil = spoiled_fit(run_dir, {3}, 1000.0, *guard, "--nan_guard.action", "skip")
    with pytest.warns(UserWarning, match="times its running mean"):
        cli.fit()
    assert [spoil.moved(step) for step in (2, 3, 4)] == [True, False, True]
