"""Weak scaling of stage 1 and stage 2 over the GPUs of one host, FSDP2: tokens/s, efficiency, memory, step times.

    python benchmarks/scaling.py                                  # 1, 2, 4, 8 GPUs, as many as there are
    python benchmarks/scaling.py --steps stage1 --processes 1 2
    python benchmarks/scaling.py --models FOLDER --accelerator cpu --eager --batch 1 --length 32   # processes, gloo

Every count of processes is a torchrun of its own over the same random models (or those in FOLDER/teacher and
FOLDER/student). What one process does is measured without any strategy, so that efficiency holds all that sharding
costs. The last count also writes a sharded checkpoint, which half as many processes go on from.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from reporting import RESULTS, report
from torch.utils.data import DataLoader
from training import RandomTokens, build, save_models


class StepTimes(lightning.Callback):
    """Seconds of each step: on a GPU from events in its queue, which is never waited for."""

    def __init__(self) -> None:
        self.marks: list[Any] = []

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self, warmup: int) -> list[float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(self.marks)][warmup:]
        return [end - start for start, end in itertools.pairwise(self.marks)][warmup:]


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, fused=torch.cuda.is_available())


def work(arguments: argparse.Namespace) -> None:
    """What every process of a torchrun does; the first one prints a line of JSON."""
    world = int(os.environ["WORLD_SIZE"])
    models = Path(arguments.models)
    options = {"optimizer": adamw, "compile": not arguments.eager, "chunk": arguments.chunk}
    recipe = build(arguments.step, models / "teacher", models / "student", options)
    times = StepTimes()
    sharded = world > 1 or arguments.resume or arguments.save
    trainer = lightning.Trainer(
        accelerator=arguments.accelerator,
        devices=world,
        strategy=ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1) if sharded else "auto",
        precision="bf16-mixed" if arguments.accelerator == "gpu" else "32-true",
        max_steps=arguments.count + (2 if arguments.resume else 0),
        callbacks=[times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    vocabulary = json.loads((models / "teacher" / "config.json").read_text())["vocab_size"]
    tokens = RandomTokens(arguments.batch * trainer.max_steps * world, arguments.length, vocabulary)
    loader = DataLoader(tokens, batch_size=arguments.batch)
    trainer.fit(recipe, loader, ckpt_path=arguments.resume)
    if arguments.save:
        trainer.save_checkpoint(arguments.save)
    seconds = times.seconds(0 if arguments.resume else arguments.warmup)
    peak = torch.cuda.max_memory_allocated() if arguments.accelerator == "gpu" else 0
    peak = int(trainer.strategy.reduce(torch.tensor(float(peak), device=recipe.device), reduce_op="max"))
    if trainer.is_global_zero:
        print(json.dumps({"seconds": seconds, "peak_bytes": peak, "global_step": trainer.global_step}), flush=True)


def run(step: str, processes: int, models: Path, arguments: argparse.Namespace, **extra: Any) -> dict[str, Any]:
    """One torchrun; returns what its first process printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [__file__, "--work", "--step", step, "--models", str(models)]
    for name in ("accelerator", "batch", "length", "count", "warmup", "chunk"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--eager"] if arguments.eager else []
    for name, value in extra.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step} on {processes} processes failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(step: str, models: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one step, a count of processes each, and whether its checkpoint was taken up by half as many."""
    rows: list[dict[str, Any]] = []
    checkpoint = models / f"{step}.ckpt"
    for processes in arguments.processes:
        last = processes == arguments.processes[-1]
        result = run(step, processes, models, arguments, **({"save": checkpoint} if last else {}))
        median = statistics.median(result["seconds"])
        tokens = arguments.batch * arguments.length / median
        single = rows[0]["tokens/s a process"] if rows else tokens
        rows.append(
            {
                "step": step,
                "processes": processes,
                "tokens/s": tokens * processes,
                "tokens/s a process": tokens,
                "efficiency": tokens / single,
                "step s": median,
                "fastest, slowest / median step": "{:.3f}, {:.3f}".format(
                    min(result["seconds"]) / median, max(result["seconds"]) / median
                ),
                "peak GiB a GPU": result["peak_bytes"] / 2**30 or None,
            }
        )
        print(rows[-1], flush=True)
    fewer = max(1, arguments.processes[-1] // 2)
    resumed = run(step, fewer, models, arguments, resume=checkpoint)
    rows[-1]["its checkpoint resumed by"] = f"{fewer}, to step {resumed['global_step']}"
    shutil.rmtree(checkpoint)  # three times the weights: the next step's would not fit beside it everywhere
    return rows


def main() -> None:
    gpus = torch.cuda.device_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", default=["stage1", "stage2"])
    parser.add_argument("--processes", type=int, nargs="+", default=[n for n in (1, 2, 4, 8) if n <= max(gpus, 1)])
    parser.add_argument("--models", type=Path, help="folder with teacher/ and student/; default: random 2B shapes")
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--batch", type=int, default=2, help="sequences a process")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--count", type=int, default=14, help="optimizer steps")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for internal in ("--step", "--save", "--resume"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    if arguments.accelerator == "gpu" and max(arguments.processes) > gpus:
        sys.exit(f"{max(arguments.processes)} processes need as many GPUs and here are {gpus}: set --processes.")
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or save_models(Path(folder), "jet_nemotron_2b", torch.device("cuda"))[0].parent
        rows = [row for step in arguments.steps for row in measure(step, models, arguments)]
    report("scaling", "Weak scaling on one host, FSDP2", rows, folder=arguments.out)


if __name__ == "__main__":
    main()
