"""The garbage collector skips what lasts as long as a fit while it runs, and sees it again afterward."""

import gc

from lightning.pytorch import Callback

from jetlit.cli.fit import open_fit
from tests.recipes import tiny


class Spared(Callback):
    def __init__(self):
        self.counts = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.counts.append(gc.get_freeze_count())


def test_a_fit_spares_what_is_there_until_its_end(run_dir):
    cli, spared = open_fit(tiny.command(run_dir, "teacher", "--ckpt_path", "none")[1:]), Spared()
    cli.trainer.callbacks.append(spared)
    cli.fit()
    assert spared.counts and min(spared.counts) > 10_000
    assert gc.get_freeze_count() == 0
