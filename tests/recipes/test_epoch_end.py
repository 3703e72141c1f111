"""A fit resumed from a checkpoint of an epoch's last step equals an undisturbed one."""

import pytest
import torch

from jetlit.cli.fit import open_fit, run_fit
from tests.recipes import tiny

STEPS, EPOCH = 30, 24


class KillAtEpochEnd(tiny.Kill):
    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == EPOCH:
            raise tiny.Killed


@pytest.mark.attack
def test_resumed_at_an_epochs_end(run_dir):
    options = [
        *("--trainer.max_steps", str(STEPS), "--data.block_size", "240"),
        *("--checkpoint.every_n_train_steps", str(EPOCH), "--ckpt_path", "last"),
    ]
    whole = run_fit(tiny.command(run_dir, "teacher", *options, "--stage", "whole"))
    assert whole.trainer.num_training_batches == EPOCH
    argv = tiny.command(run_dir, "teacher", *options, "--stage", "killed")
    cli = open_fit(argv[1:])
    cli.trainer.callbacks.append(KillAtEpochEnd())
    with pytest.raises(tiny.Killed):
        cli.fit()
    resumed = run_fit(argv)
    expected = whole.model.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.model.state_dict().items())
    assert resumed.trainer.global_step == STEPS
