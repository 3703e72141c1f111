"""Run by torchrun in `test_distributed.py`: fits of several strategies, one after the other in one process group."""

import json
import sys
from pathlib import Path

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


def main(run_dir: str, plan: str, processes: str, nodes: str) -> None:
    for job in json.loads(plan):
        options = list(job["options"])
        if int(nodes) > 1:
            options += ["--trainer.num_nodes", nodes, "--trainer.devices", "1"]
        argv = command(run_dir, job["stage"], job["folder"], job["strategy"], int(processes), *options)
        if job.get("kill"):
            try:
                tiny.interrupted_cli(JetlitCLI(argv[1:])).run("fit")
            except tiny.Killed:
                continue
            raise AssertionError("the fit was not interrupted")
        run_fit(argv)


if __name__ == "__main__":
    main(*sys.argv[1:])
