"""Weak scaling of stage 1 and stage 2 over the GPUs of one host: tokens/s, efficiency, memory, step times.

    python benchmarks/scaling.py                                  # 1, 2, 4, 8 GPUs, as many as there are
    python benchmarks/scaling.py --steps stage1 --processes 1 2 --parts times --trace-steps
    python benchmarks/scaling.py --steps stage1 --processes 2 --parts checkpoint
    python benchmarks/scaling.py --models FOLDER --accelerator cpu --eager --batch 1 --length 32   # processes, gloo

Every count of processes is a torchrun of its own over the same random models (or those in FOLDER/teacher and
FOLDER/student). What one process does is measured without any strategy, so that efficiency holds all that sharding
costs. The last count also writes a checkpoint, which half as many processes go on from. Rows are added to those that
this machine has measured the same day, in place of those of the same measurement; --trace-steps says beside them what
the GPU of the first process waited for in one step.
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
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from reporting import RESULTS, report, today, with_earlier
from torch.utils.data import DataLoader
from tracing import StepTrace
from training import RandomTokens, build, save_models

from jetlit.files import write_text

Row = dict[str, Any]
PARTS = ["times", "checkpoint"]


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

    def seconds(self) -> list[float]:
        pairs = itertools.pairwise(self.marks)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return [start.elapsed_time(end) / 1e3 for start, end in pairs]
        return [end - start for start, end in pairs]


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, fused=torch.cuda.is_available())


def strategy(arguments: argparse.Namespace, world: int) -> Any:
    """That of one training process is none, so that efficiency holds all that sharding costs."""
    if world == 1 and not (arguments.resume or arguments.save):
        return "auto"
    if arguments.strategy == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)


def work(arguments: argparse.Namespace) -> None:
    """What every process of a torchrun does; the first one prints a line of JSON."""
    world = int(os.environ["WORLD_SIZE"])
    models = Path(arguments.models)
    options = {"optimizer": adamw, "compile": not arguments.eager, "chunk": arguments.chunk}
    recipe = build(arguments.step, models / "teacher", models / "student", options)
    times, trace = StepTimes(), StepTrace(arguments.count + 1)
    trainer = lightning.Trainer(
        accelerator=arguments.accelerator,
        devices=world,
        strategy=strategy(arguments, world),
        precision="bf16-mixed" if arguments.accelerator == "gpu" else "32-true",
        max_steps=arguments.count + (2 if arguments.resume or arguments.trace else 0),
        callbacks=[times, *([trace] if arguments.trace else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    vocabulary = json.loads((models / "teacher" / "config.json").read_text())["vocab_size"]
    tokens = RandomTokens(arguments.batch * trainer.max_steps * world, arguments.length, vocabulary)
    loader = DataLoader(tokens, batch_size=arguments.batch, pin_memory=arguments.accelerator == "gpu")
    trainer.fit(recipe, loader, ckpt_path=arguments.resume)
    if arguments.save:
        trainer.save_checkpoint(arguments.save)
    peak = torch.cuda.max_memory_allocated() if arguments.accelerator == "gpu" else 0
    peak = int(trainer.strategy.reduce(torch.tensor(float(peak), device=recipe.device), reduce_op="max"))
    if trainer.is_global_zero:
        if arguments.trace:
            write_text(Path(arguments.trace), trace.summary() + "\n")
        seconds = times.seconds()[arguments.warmup : arguments.count - 1]
        print(json.dumps({"seconds": seconds, "peak_bytes": peak, "global_step": trainer.global_step}), flush=True)


def run(step: str, processes: int, models: Path, arguments: argparse.Namespace, **extra: Any) -> dict[str, Any]:
    """One torchrun; returns what its first process printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [__file__, "--work", "--step", step, "--models", str(models)]
    for name in ("accelerator", "strategy", "batch", "length", "count", "warmup", "chunk"):
        command += [f"--{name}", str(extra.pop(name, getattr(arguments, name)))]
    command += ["--eager"] if arguments.eager else []
    for name, value in extra.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step} on {processes} processes failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def timed(step: str, processes: int, models: Path, arguments: argparse.Namespace) -> Row:
    """Speed and memory of one step on a count of processes."""
    trace = arguments.out / f"scaling_{step}_{processes}.txt"
    result = run(step, processes, models, arguments, **({"trace": trace} if arguments.trace_steps else {}))
    median = statistics.median(result["seconds"])
    tokens = arguments.batch * arguments.length / median
    slowest, fastest = max(result["seconds"]) / median, min(result["seconds"]) / median
    if arguments.trace_steps:
        print(trace.read_text(), flush=True)
    return {
        "tokens/s": tokens * processes,
        "tokens/s a process": tokens,
        "efficiency": None,
        "step s": median,
        "fastest, slowest / median step": f"{fastest:.3f}, {slowest:.3f}",
        "peak GiB a GPU": result["peak_bytes"] / 2**30 or None,
    }


def handed_over(step: str, processes: int, models: Path, arguments: argparse.Namespace) -> Row:
    """Whether half as many processes go on from the checkpoint of a short fit."""
    checkpoint = models / f"{step}.ckpt"
    fewer = max(1, processes // 2)
    start = time.perf_counter()
    run(step, processes, models, arguments, count=2, save=checkpoint)
    resumed = run(step, fewer, models, arguments, count=2, resume=checkpoint)
    took = time.perf_counter() - start
    # Three times the weights: the next step's would not fit beside it everywhere.
    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    return {"its checkpoint resumed by": f"{fewer}, to step {resumed['global_step']} ({took:.0f} s)"}


KEY = ("step", "processes", "strategy", "batch x length a process")


def add(rows: list[Row], row: Row) -> None:
    """Put a row's values into that of the same measurement, or the row at the end; say what efficiencies are then."""
    same = [other for other in rows if all(other.get(name) == row[name] for name in KEY)]
    if same:
        same[0].update(row)
    else:
        rows.append(row)
    single = {(r["step"], r[KEY[-1]]): r.get("tokens/s") for r in rows if r["processes"] == 1}
    for each in rows:
        alone = single.get((each["step"], each[KEY[-1]]))
        if alone and each.get("tokens/s a process"):
            each["efficiency"] = each["tokens/s a process"] / alone


def main() -> None:
    gpus = torch.cuda.device_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", default=["stage1", "stage2"])
    parser.add_argument("--processes", type=int, nargs="+", default=[n for n in (1, 2, 4, 8) if n <= max(gpus, 1)])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--strategy", choices=("fsdp2", "ddp"), default="fsdp2")
    parser.add_argument("--models", type=Path, help="folder with teacher/ and student/; default: random 2B shapes")
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--batch", type=int, default=2, help="sequences a process")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--count", type=int, default=14, help="optimizer steps")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--trace-steps", action="store_true", help="also trace a step of each measurement")
    parser.add_argument("--out", type=Path, default=RESULTS)
    for internal in ("--step", "--save", "--resume", "--trace"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    if arguments.accelerator == "gpu" and max(arguments.processes) > gpus:
        sys.exit(f"{max(arguments.processes)} processes need as many GPUs and here are {gpus}: set --processes.")
    rows = with_earlier([], "scaling", KEY, arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or save_models(Path(folder), "jet_nemotron_2b", torch.device("cuda"))[0].parent
        for step, part, processes in itertools.product(arguments.steps, arguments.parts, arguments.processes):
            if part == "checkpoint" and processes != arguments.processes[-1]:
                continue
            measure = timed if part == "times" else handed_over
            values = measure(step, processes, models, arguments)
            spread = arguments.strategy if processes > 1 else "-"
            shape = f"{arguments.batch}x{arguments.length}"
            key = dict(zip(KEY, (step, processes, spread, shape), strict=True))
            add(rows, key | values | {"measured": today()})
            report("scaling", "Weak scaling on one host", rows, folder=arguments.out)


if __name__ == "__main__":
    main()
