"""What `test_distributed.py` launches: fits of several strategies, one after the other in one process group."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from jetlit.callbacks import last_checkpoint
from jetlit.cli.fit import JetlitCLI, run_fit
from tests.recipes import tiny

CONFIGS = Path(__file__).parents[2] / "configs/strategy"
STEPS = "6"


def command(run_dir: str, stage: str, folder: str, strategy: str | None, processes: int, *options: str) -> list[str]:
    configs = [f"{run_dir}/striped.yaml", f"{run_dir}/{stage}.yaml"]
    if strategy is not None:
        configs.append(str(CONFIGS / f"{strategy}.yaml"))
    argv = ["fit", *(part for path in configs for part in ("--config", path))]
    if strategy == "fsdp2":
        argv += ["--trainer.strategy.data_parallel_size", str(processes)]
    argv += ["--run_dir", run_dir, "--stage", folder, "--trainer.devices", str(min(processes, 2))]
    return [*argv, "--trainer.max_steps", STEPS, *options]


class TermOnOneRank(Callback):
    """One process is told to end, in the middle of its second step."""

    def on_before_backward(self, trainer, *args):
        if trainer.global_step == 1 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def terminate(argv: list[str]) -> None:
    cli = JetlitCLI(argv)
    cli.trainer.callbacks.append(TermOnOneRank())
    try:
        cli.run("fit")
    except SystemExit as end:
        assert end.code == 143
        saved = last_checkpoint(cli.folder / "checkpoints")
        assert not cli.trainer.is_global_zero or (saved is not None and saved.name < "step=00000003")
    else:
        raise AssertionError("the fit was not ended")


class NanOnOneRank(Callback):
    """One process sees no number in its third step."""

    def on_fit_start(self, trainer, pl_module):
        def spoiled(module, args, output):
            bad = trainer.training and trainer.global_step == 2 and trainer.global_rank == 1
            return output * float("nan") if bad else None

        pl_module.model.model.norm.register_forward_hook(spoiled)


def spoil(argv: list[str]) -> None:
    cli = JetlitCLI([*argv, "--nan_guard.action", "skip"])
    cli.trainer.callbacks.append(NanOnOneRank())
    cli.run("fit")


def main(run_dir: Path, plan: list[dict[str, Any]], processes: int, nodes: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has its launcher's handler
    torch.set_num_threads(1)
    for job in plan:
        options = list(job["options"])
        if nodes > 1:
            options += ["--trainer.num_nodes", str(nodes), "--trainer.devices", "1"]
        argv = command(str(run_dir), job["stage"], job["folder"], job["strategy"], processes, *options)
        if job.get("kill"):
            try:
                tiny.interrupted_cli(JetlitCLI(argv[1:])).run("fit")
            except tiny.Killed:
                continue
            raise AssertionError("the fit was not interrupted")
        if job.get("terminate"):
            terminate(argv[1:])
            continue
        if job.get("spoil"):
            spoil(argv[1:])
            continue
        run_fit(argv)
