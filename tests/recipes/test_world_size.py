"""Every number of a fit is the same for one, two and three processes, and for any number of loading processes.

Tolerance: 1e-4, the rounding of float32 sums taken in another order.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from jetlit.cli.fit import open_fit, run_fit
from tests.recipes import tiny
from tests.recipes.distributed_fits import CONFIGS, curve

pytestmark = [pytest.mark.attack, pytest.mark.timeout(900)]

CLOSE = {"rel": 1e-4, "abs": 1e-6}
TASKS = [{"kind": "recall", "documents": 5, "pairs": 3, "queries": 4}]
# Processes and their loading processes; six blocks a step, 66 held out, whatever the number of processes.
WORLDS = ((1, 0), (2, 1), (3, 2))
LOGGED = ("train/objective", "train/grad_norm", "val/loss", "val/kl", "task/recall/accuracy", "task/recall/loss")


def options_of(processes: int, workers: int, strategy: str) -> list[str]:
    batch = 6 // processes
    options = [
        "--data.batch_size",
        str(batch),
        "--data.num_workers",
        str(workers),
        "--data.val_batches",
        str(66 // batch),
    ]
    options += ["--trainer.devices", str(processes), "--trainer.log_every_n_steps", "1", "--trainer.max_steps", "9"]
    options += ["--trainer.val_check_interval", "4", f"--tasks.specs={json.dumps(TASKS)}"]
    if processes > 1:
        options = ["--config", str(CONFIGS / f"{strategy}.yaml"), *options]
        if strategy == "fsdp2":
            options += ["--trainer.strategy.data_parallel_size", str(processes)]
    return options


def work(command: list[str], folder: str, ends: str) -> None:
    """Run a subcommand in a process of a group; the first one writes down its numbers."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has its launcher's handler
    torch.set_num_threads(1)
    if ends == "killed":
        try:
            tiny.interrupted_cli(open_fit(command[1:])).fit()
        except tiny.Killed:
            return
        raise AssertionError("the fit was not interrupted")
    cli = run_fit(command)
    if cli.trainer.is_global_zero:
        numbers = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{command[0]}.json").write_text(json.dumps(numbers))


def launch(processes: int, *arguments: Any) -> None:
    """Run `work` in a group of processes as torchrun would."""
    settings: dict[str, Any] = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "max_restarts": 0}
    settings |= {"run_id": "test", "start_method": "fork", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    elastic_launch(LaunchConfig(**settings), work)(*arguments)


def fit(
    run_dir: Path, stage: str, world: tuple[int, int], strategy: str, folder: str, *more: str, ends: str = ""
) -> None:
    options = [*options_of(*world, strategy), "--stage", folder, *more]
    launch(world[0], tiny.command(run_dir, stage, *options), str(run_dir / folder), ends)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_fit_is_that_of_one_process(run_dir, strategy):
    for world in WORLDS:
        fit(run_dir, "stage1", world, strategy, f"of_{world[0]}")
    for name in LOGGED:
        one = curve(run_dir, "of_1", name)
        assert len(one) == (9 if name.startswith("train") else 3)
        for processes in (2, 3):
            assert curve(run_dir, f"of_{processes}", name) == pytest.approx(one, **CLOSE), (processes, name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_super_network_is_validated_as_by_one_process(run_dir, strategy):
    """Its path depends on the batch, so batches stay as they are; 10 of them are no multiple of 3 processes."""
    tiny.fit(run_dir, "supernet", "--checkpoint.every_n_train_steps", "6")
    found = {}
    for processes in (1, 2, 3):
        options = [*options_of(processes, 0, strategy), "--data.batch_size", "3", "--data.val_batches", "10"]
        command = tiny.command(run_dir, "supernet", *options, "--ckpt_path", "last", subcommand="validate")
        launch(processes, command, str(run_dir / f"by_{processes}"), "")
        found[processes] = json.loads((run_dir / f"by_{processes}/validate.json").read_text())
    assert {"val/loss", "val/kl", "val/feature", "task/recall/accuracy"} <= found[1].keys()
    for processes in (2, 3):
        assert found[processes] == pytest.approx(found[1], **CLOSE)


@pytest.mark.parametrize(("before", "after"), [((1, 0), (3, 2)), ((3, 1), (2, 0)), ((2, 2), (1, 1))])
def test_a_fit_changes_the_number_of_its_processes(run_dir, before, after):
    """Killed in its sixth step, with a checkpoint of its third."""
    fit(run_dir, "stage1", (1, 0), "ddp", "whole")
    fit(run_dir, "stage1", before, "ddp", "changed", ends="killed")
    fit(run_dir, "stage1", after, "ddp", "changed", "--ckpt_path", "last")
    for name in ("train/objective", "train/grad_norm"):
        assert curve(run_dir, "changed", name) == pytest.approx(curve(run_dir, "whole", name), **CLOSE)
