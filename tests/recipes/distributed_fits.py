"""Fits of several strategies, launched one after the other in one process group, and what they logged."""

import copy
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor

from jetlit.cli.fit import open_fit, run_fit
from jetlit.errors import UserError
from jetlit.pipeline.fit import FitCLI
from jetlit.training import AtomicCheckpointIO, last_checkpoint
from tests.recipes import tiny

CONFIGS = Path(__file__).parents[2] / "configs/strategy"
STEPS = "6"


def prepare(run_dir: Path, accelerator: str = "cpu", **tokens: int) -> None:
    """Write the config of fits that see the same global batches; `tokens` are `StripedTokens`' arguments."""
    config = copy.deepcopy(tiny.CONFIG)
    config["data"] = {"class_path": "tests.recipes.striped.StripedTokens", "init_args": tokens}
    config["trainer"] |= {"accelerator": accelerator, "use_distributed_sampler": False, "log_every_n_steps": 1}
    (run_dir / "striped.yaml").write_text(json.dumps(config))


def launch(
    run_dir: Path, plan: list[dict[str, Any]], processes: int = 2, nodes: int = 1, start_method: str = "fork"
) -> None:
    """Run a plan of fits as torchrun would, by one node or by several; forks spare the imports but suit no GPU."""
    settings: dict[str, Any] = {"min_nodes": nodes, "max_nodes": nodes, "nproc_per_node": processes // nodes}
    settings |= {"run_id": "test", "max_restarts": 0, "start_method": start_method}
    if nodes == 1:
        meetings: list[dict[str, Any]] = [{"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}]
    else:
        static = {"rdzv_backend": "static", "rdzv_endpoint": f"127.0.0.1:{20000 + os.getpid() % 20000}"}
        meetings = [static | {"rdzv_configs": {"rank": node}} for node in range(nodes)]
    launchers = [elastic_launch(LaunchConfig(**settings, **meeting), main) for meeting in meetings]
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=launcher, args=(run_dir, plan, processes, nodes)) for launcher in launchers]
    for process in running:
        process.start()
    for process in running:
        process.join(240)
        assert process.exitcode == 0


def by_one(run_dir: Path, stage: str, folder: str, *options: str) -> FitCLI:
    """Run a fit in this process."""
    return run_fit(command(str(run_dir), stage, folder, None, 1, *options))


def stopped_by_one(run_dir: Path, stage: str, folder: str, *options: str) -> None:
    """Run a fit in this process until its sixth step."""
    stop(command(str(run_dir), stage, folder, None, 1, *options))


def curve(run_dir: Path, folder: str, name: str) -> list[float]:
    """Return what a fit logged under a name, step by step."""
    events = EventAccumulator(str(run_dir / folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def command(run_dir: str, stage: str, folder: str, strategy: str | None, processes: int, *options: str) -> list[str]:
    configs = [f"{run_dir}/striped.yaml", f"{run_dir}/{stage}.yaml"]
    if strategy is not None:
        configs.append(str(CONFIGS / f"{strategy}.yaml"))
    argv = ["fit", *(part for path in configs for part in ("--config", path))]
    if strategy == "fsdp2":
        argv += ["--trainer.strategy.data_parallel_size", str(processes)]
    argv += ["--run_dir", run_dir, "--stage", folder, "--trainer.devices", str(min(processes, 2))]
    return [*argv, "--trainer.max_steps", STEPS, *options]


def stop(argv: list[str]) -> None:
    try:
        tiny.interrupted_cli(open_fit(argv[1:])).fit()
    except tiny.Killed:
        return
    raise AssertionError("the fit was not interrupted")


class TermOnOneRank(Callback):
    """One process is told to end, in the middle of its second step."""

    def on_before_backward(self, trainer, *args):
        if trainer.global_step == 1 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def terminate(argv: list[str]) -> None:
    cli = open_fit(argv[1:])
    cli.trainer.callbacks.append(TermOnOneRank())
    try:
        cli.fit()
    except SystemExit as end:
        assert end.code == 143
        saved = last_checkpoint(cli.folder / "checkpoints")
        assert not cli.trainer.is_global_zero or (saved is not None and saved.name < "step=00000003")
    else:
        raise AssertionError("the fit was not ended")


class NanOnOneRank(Callback):
    """One process gets a NaN loss in its third step."""

    def on_fit_start(self, trainer, pl_module):
        def spoiled(module, args, output):
            bad = trainer.training and trainer.global_step == 2 and trainer.global_rank == 1
            return output * float("nan") if bad else None

        pl_module.model.model.norm.register_forward_hook(spoiled)


def spoil(argv: list[str]) -> None:
    cli = open_fit([*argv[1:], "--nan_guard.action", "skip"])
    cli.trainer.callbacks.append(NanOnOneRank())
    cli.fit()


def unwritable(argv: list[str]) -> None:
    """Fail to write the only checkpoint, the last step's."""

    def refuse(*_: Any, **__: Any) -> None:
        time.sleep(0.5)  # the fit continues meanwhile, to its end
        raise UserError("Could not write it.")

    with mock.patch.object(AtomicCheckpointIO, "save_checkpoint", refuse):
        try:
            run_fit([*argv, "--checkpoint.every_n_train_steps", STEPS])
        except UserError as error:
            assert str(error) == "Could not write it."
            return
    raise AssertionError("the fit ended as if its checkpoint were there")


def note_teacher(cli: FitCLI) -> None:
    """Write down what share of each parameter of the teacher's layers a process holds when its fit is over."""
    teacher = getattr(cli.model, "teacher", None)
    if teacher is None:
        return
    held = {}
    for name, whole in teacher.model.model.layers.named_parameters():
        part = whole.to_local() if isinstance(whole, DTensor) else whole
        held[name] = part.numel() / whole.numel()
    (cli.folder / f"teacher_rank{cli.trainer.global_rank}.json").write_text(json.dumps(held))


def finish(argv: list[str]) -> None:
    note_teacher(run_fit(argv))


# How a job of a plan ends.
ENDS = {"well": finish, "stopped": stop, "terminated": terminate, "spoiled": spoil, "unwritable": unwritable}


def main(run_dir: Path, plan: list[dict[str, Any]], processes: int, nodes: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has its launcher's handler
    torch.set_num_threads(1)
    for job in plan:
        options = list(job["options"])
        if nodes > 1:
            options += ["--trainer.num_nodes", str(nodes), "--trainer.devices", "1"]
        argv = command(str(run_dir), job["stage"], job["folder"], job["strategy"], processes, *options)
        ENDS[job.get("ends", "well")](argv)
