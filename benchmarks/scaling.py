"""Weak scaling of stage 1 and stage 2 over the GPUs of one host: tokens/s, efficiency, memory, step times, loading.

    python benchmarks/scaling.py                                  # 1, 2, 4, 8 GPUs, as many as there are
    python benchmarks/scaling.py --steps stage1 --processes 1 2 --parts times --trace-steps
    python benchmarks/scaling.py --steps stage1 --processes 2 --parts checkpoint
    python benchmarks/scaling.py --models FOLDER --accelerator cpu --eager --batch 1 --length 32   # processes, gloo
    python benchmarks/scaling.py --merge FOLDER FOLDER            # one table of what was measured with other --out

Every count of processes is a launch of its own, as torchrun's, over the same random models (or those in FOLDER/teacher
and FOLDER/student). What one process does is measured without any strategy, so that efficiency holds all that sharding
costs. The last count also writes a checkpoint, which half as many processes resume: with the weights and the
optimizer's moments that were saved, or the run fails. The data loader is measured in all processes at once, on a
mixture of corpora, as benchmarks/loader.py does in one. Rows are added to those that this machine has measured the same
day, in place of those of the same measurement; --trace-steps says beside them what the GPU of the first process waited
for in one step.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning
import loader as token_loader
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from reporting import RESULTS, merged, report, today, with_earlier
from torch import distributed
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils.data import DataLoader
from tracing import StepTrace
from training import RandomTokens, build, save_models

from jetlit.datamodules import TokenDataModule
from jetlit.files import write_text
from jetlit.pipeline.report.style import new_figure, save
from jetlit.training.optimizer import global_norm

Row = dict[str, Any]
Result = TypeVar("Result")
PARTS = ["times", "checkpoint", "loader"]
WORKERS = 4  # of each process, as in configs/jet_nemotron_2b
NOTES = (
    "Efficiency is a process's tokens/s over those of one process without any strategy. The loader's are those of the "
    "slowest process, all of them reading at once."
)


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


class OptimizerNorms(lightning.Callback):
    """Norms over all processes of the trained weights and of the optimizer's moments: what a checkpoint hands over."""

    def __init__(self) -> None:
        self.at_start: list[float] = []
        self.at_end: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.at_start = self.norms(trainer.optimizers[0])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.at_end = self.norms(trainer.optimizers[0])

    @staticmethod
    def norms(optimizer: torch.optim.Optimizer) -> list[float]:
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = [optimizer.state[weight] for weight in weights if optimizer.state[weight]]
        tensors = [weights, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]]
        return [float(global_norm(tensor.detach() for tensor in each)) for each in tensors if each]


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, fused=torch.cuda.is_available())


def strategy(arguments: argparse.Namespace, world: int) -> Any:
    """Return the strategy. One training process has none, so that efficiency holds all that sharding costs."""
    if world == 1 and not (arguments.resume or arguments.save):
        return "auto"
    if arguments.strategy == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)


def work(arguments: argparse.Namespace) -> Row:
    """Train shortly, as every process of a launch does; return what the first one measured."""
    torch.set_num_threads(1)  # as torchrun would have it
    world = int(os.environ["WORLD_SIZE"])
    models, hands_over = arguments.models, bool(arguments.save or arguments.resume)
    options = {"optimizer": adamw, "compile": not arguments.eager, "chunk": arguments.chunk}
    recipe = build(arguments.step, models / "teacher", models / "student", options)
    times, trace, norms = StepTimes(), StepTrace(arguments.count + 1), OptimizerNorms()
    trainer = lightning.Trainer(
        accelerator=arguments.accelerator,
        devices=world,
        strategy=strategy(arguments, world),
        precision="bf16-mixed" if arguments.accelerator == "gpu" else "32-true",
        max_steps=arguments.count + (2 if arguments.resume or arguments.trace else 0),
        callbacks=[times, *([trace] if arguments.trace else []), *([norms] if hands_over else [])],
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
    if arguments.trace and trainer.is_global_zero:
        write_text(arguments.trace, trace.summary() + "\n")
    return {
        "peak_bytes": peak,
        "global_step": trainer.global_step,
        "seconds": times.seconds()[arguments.warmup : arguments.count - 1],
        "at_start": norms.at_start,
        "at_end": norms.at_end,
    }


def read(arguments: argparse.Namespace) -> tuple[float, float]:
    """Measure the loader, as every process of a launch does.

    Returns:
        The slowest one's tokens/s, and its seconds until an epoch begins.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # batches are pinned
    corpora = token_loader.mixture(arguments.corpora)
    data = TokenDataModule(corpora, arguments.length, arguments.batch, num_workers=WORKERS)
    distributed.barrier()
    first, later = token_loader.epochs(data, seconds=3)
    worst = torch.tensor([min(first.speed, later.speed), -max(first.start, later.start)])
    distributed.all_reduce(worst, distributed.ReduceOp.MIN)
    distributed.destroy_process_group()
    return float(worst[0]), -float(worst[1])


def launch(job: Callable[[argparse.Namespace], Result], processes: int, arguments: argparse.Namespace) -> Result:
    """Run a job in processes of its own, as `torchrun --standalone` would; return what the first one returned."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        # A fork spares the imports, which take longer than all else on a CPU; CUDA does not outlive one.
        start_method="spawn" if arguments.accelerator == "gpu" else "fork",
    )
    return elastic_launch(config, job)(arguments)[0]


def train(step: str, processes: int, models: Path, arguments: argparse.Namespace, **options: Any) -> Row:
    """Launch a short training of one step's recipe."""
    given = {"step": step, "models": models, "trace": None, "save": None, "resume": None} | options
    return launch(work, processes, argparse.Namespace(**(vars(arguments) | given)))


def timed(step: str, processes: int, models: Path, arguments: argparse.Namespace) -> Row:
    """Speed and memory of one step on a count of processes."""
    trace = arguments.out / f"scaling_{step}_{processes}.txt"
    result = train(step, processes, models, arguments, trace=trace if arguments.trace_steps else None)
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
    """Check that half as many processes resume the checkpoint of a short fit."""
    checkpoint = models / f"{step}.ckpt"
    fewer = max(1, processes // 2)
    start = time.perf_counter()
    saved = train(step, processes, models, arguments, count=2, save=checkpoint)
    resumed = train(step, fewer, models, arguments, count=2, resume=checkpoint)
    took = time.perf_counter() - start
    if not torch.allclose(torch.tensor(saved["at_end"]), torch.tensor(resumed["at_start"]), rtol=1e-5, atol=0):
        sys.exit(f"{step}: {fewer} processes begin with norms {resumed['at_start']}, not {saved['at_end']} as saved.")
    # Three times the weights: the next step's would not fit beside it everywhere.
    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    return {"its checkpoint resumed by": f"{fewer}, to step {resumed['global_step']} ({took:.0f} s)"}


def loaded(processes: int, corpora: list[str], arguments: argparse.Namespace) -> Row:
    """Speed of the slowest loader of a count of processes, beside what a GPU consumes."""
    slowest, start = launch(read, processes, argparse.Namespace(**(vars(arguments) | {"corpora": corpora})))
    return {
        "tokens/s": slowest * processes,
        "tokens/s a process": slowest,
        "efficiency": None,
        "tokens/s a process / a GPU's need": slowest / token_loader.CONSUMED,
        "an epoch begins after s": start,
    }


KEY = ("step", "processes", "strategy", "batch x length a process")


def add(rows: list[Row], row: Row) -> None:
    """Put a row's values into that of the same measurement, or the row in its place; say what efficiencies are then."""
    same = [other for other in rows if all(other.get(name) == row[name] for name in KEY)]
    if same:
        same[0].update(row)
    else:
        rows.append(row)
        rows.sort(key=lambda each: (each["step"], each[KEY[-1]], each["processes"]))
    single = {(r["step"], r[KEY[-1]]): r.get("tokens/s") for r in rows if r["processes"] == 1}
    for each in rows:
        alone = single.get((each["step"], each[KEY[-1]]))
        if alone and each.get("tokens/s a process"):
            each["efficiency"] = each["tokens/s a process"] / alone


def draw(rows: list[Row], path: Path) -> None:
    """Efficiency over the number of processes, a line for each step and batch."""
    figure, [axis] = new_figure(5, 3.2)
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["processes"]):
        if row.get("efficiency") and row.get("step s"):
            lines.setdefault(f"{row['step']}, {row[KEY[-1]]}", []).append(row)
    for number, (label, each) in enumerate(lines.items()):
        counts, values = zip(*((row["processes"], row["efficiency"]) for row in each), strict=True)
        axis.plot(counts, values, marker="osD^"[number % 4], label=label)
    counts = sorted({row["processes"] for each in lines.values() for row in each})
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, labels=map(str, counts))
    axis.set(xlabel="processes", ylabel="tokens/s a process, of one alone's", ylim=(0, 1.1))
    axis.legend(frameon=False, loc="lower left")
    save(figure, path)


def show(rows: list[Row], folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Write the table and its picture."""
    report("scaling", "Weak scaling on one host", rows, NOTES, folder=folder, facts=facts)
    if any(row.get("efficiency") and row.get("step s") and row["processes"] > 1 for row in rows):
        draw(rows, folder / "scaling.png")


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
    parser.add_argument("--corpora", nargs="+", help="folders that `jetlit data` prepared; default: two from Python's")
    parser.add_argument("--merge", type=Path, nargs="+", help="measure nothing: one table of these folders' tables")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.accelerator == "gpu" and max(arguments.processes) > gpus and not arguments.merge:
        sys.exit(f"{max(arguments.processes)} processes need as many GPUs and here are {gpus}: set --processes.")
    if arguments.merge:
        merge(arguments.merge, arguments.out)
    else:
        measure(with_earlier([], "scaling", KEY, arguments.out), arguments)


def merge(folders: list[Path], out: Path) -> None:
    """Write one table of those in the folders, in place of the one in `out`, which must be named to be kept."""
    measured, facts = merged([json.loads((folder / "scaling.json").read_text()) for folder in folders])
    rows: list[Row] = []
    for row in measured:
        add(rows, row)
    show(rows, out, facts)


def measure(rows: list[Row], arguments: argparse.Namespace) -> None:
    """Every part asked for; each adds its row as soon as it is there."""
    counts, strategy = arguments.processes, arguments.strategy

    def put(values: Row, *key: Any) -> None:
        shape = f"{arguments.batch}x{arguments.length}"
        add(rows, dict(zip(KEY, (*key, shape), strict=True)) | values | {"measured": today()})
        show(rows, arguments.out)

    with tempfile.TemporaryDirectory() as folder:
        if "loader" in arguments.parts:
            corpora = arguments.corpora or token_loader.prepared(folder)
            for processes in counts:
                put(loaded(processes, corpora, arguments), f"loader, {WORKERS} workers", processes, "-")
        if not {"times", "checkpoint"} & set(arguments.parts):
            return
        models = arguments.models or save_models(Path(folder), "jet_nemotron_2b", torch.device("cuda"))[0].parent
        for step in arguments.steps:
            if "times" in arguments.parts:
                for processes in counts:
                    values = timed(step, processes, models, arguments)
                    put(values, step, processes, strategy if processes > 1 else "-")
            if "checkpoint" in arguments.parts:
                put(handed_over(step, counts[-1], models, arguments), step, counts[-1], strategy)


if __name__ == "__main__":
    main()
