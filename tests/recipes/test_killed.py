"""A fit killed by SIGKILL, whenever it is, goes on from its last checkpoint as if nothing had happened.

The command is the same each time, the first included; checkpoints are written in the background after every step.
"""

import json
import multiprocessing
import re
import time

import pytest
import torch
from jetlit_data import CorpusSpec, prepare
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jetlit.cli.fit import run_fit
from jetlit.training import last_checkpoint
from tests.recipes import tiny

STEPS, EPOCH = 44, 25
MIXTURE = {"recall": 0.7, "other": 0.3}
OPTIONS = [
    *("--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1", "--data.block_size", "240"),
    *("--checkpoint.every_n_train_steps", "1", "--ckpt_path", "last"),
    tiny.BACKGROUND,
]


def fit(argv):
    torch.set_num_threads(1)  # the parent's pool of threads does not survive the fork
    run_fit(argv)


def newest_step(folder):
    last = last_checkpoint(folder / "checkpoints")
    return 0 if last is None else int(re.search(r"step=(\d+)", last.name)[1])


def let_a_second_pass(folder):
    """TensorBoard reads event files in the order of their names, which begin with the second they were made in."""
    made = [int(path.name.split(".")[3]) for path in (folder / "tensorboard").glob("events*")]
    time.sleep(max(0.0, max(made, default=0) + 1 - time.time()))


def kill_after(argv, folder, step):
    """Start a fit and kill it once a checkpoint of `step` or a later one is there."""
    let_a_second_pass(folder)
    process = multiprocessing.get_context("fork").Process(target=fit, args=(argv,))
    process.start()
    deadline = time.monotonic() + 60
    while newest_step(folder) < step:
        assert process.is_alive() and time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.002)
    process.kill()
    process.join()
    assert step <= newest_step(folder) < STEPS


def losses(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/objective")]


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True], ids=["single", "mixed"])
def test_batches_losses_and_weights_go_on(run_dir, mixed):
    options = list(OPTIONS)
    if mixed:
        other = {"other": CorpusSpec("arithmetic", 12_000)}
        prepare(str(run_dir / "data"), other, val_fraction=0.2, chunk_tokens=960, progress=False)
        mixture = [{"path": f"{run_dir}/data/{name}", "weight": weight} for name, weight in MIXTURE.items()]
        options += [f"--data.corpora={json.dumps(mixture)}"]
    whole = run_fit(tiny.command(run_dir, "stage1", *options, "--stage", "whole"))
    assert whole.trainer.current_epoch >= 1, "the fit must cross an epoch's end"
    argv = tiny.command(run_dir, "stage1", *options, "--stage", "killed")
    for step in (3, EPOCH - 3, EPOCH + 4):
        kill_after(argv, run_dir / "killed", step)
    let_a_second_pass(run_dir / "killed")
    resumed = run_fit(argv)
    assert losses(run_dir / "killed") == losses(run_dir / "whole")
    assert len(losses(run_dir / "whole")) == STEPS
    expected = whole.model.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.model.state_dict().items())
