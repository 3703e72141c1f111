"""How soon a block selection starts: a block's first training step with empty caches, and its later ones.

    python benchmarks/block_start.py                            # our own way for every linear block
    python benchmarks/block_start.py --backends ours fla-core   # and fla-core's kernels for GLA and RWKV7
    python benchmarks/block_start.py --blocks gla --backends fla-core --limit 300

Each row is a process of its own with empty Triton and Inductor caches. One that has not finished its first step within
the limit leaves a row that says so. Every row is printed and reported as soon as it is known; rows of earlier runs that
are not measured again stay.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from reporting import report, with_earlier
from timing import milliseconds

from jetlit.blocks import BLOCKS, LinearMixer, build_block

BATCH, LENGTH, HIDDEN = 3, 4096, 1536
LINEAR = [name for name, block in BLOCKS.items() if issubclass(block, LinearMixer)]
WITH_FLA = ("gla", "rwkv7")
SIZES: dict[str, dict[str, Any]] = {"rwkv7": {"num_heads": 24, "head_dim": 64}}
COMMON: dict[str, Any] = {"num_heads": 12, "head_dim": 128}


def take_fla() -> None:
    """Put fla-core's kernels under GLA; RWKV7 takes them by JETLIT_FLA=1."""
    from fla.ops.gla import chunk_gla

    from jetlit.blocks import gla

    def by_fla(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, **options: Any) -> Any:
        return chunk_gla(q, k, v, g, **options)

    gla.linear_attention = by_fla


def start(name: str, backend: str) -> dict[str, Any]:
    """Seconds of a block's first forward and backward pass in this process, and milliseconds of the later ones."""
    if backend == "fla-core" and name == "gla":
        take_fla()
    torch.manual_seed(0)
    with torch.device("cuda"):
        block = build_block(name, HIDDEN, **(COMMON | SIZES.get(name, {}))).bfloat16()
        x = torch.randn(BATCH, LENGTH, HIDDEN).bfloat16().requires_grad_()
    upstream = torch.randn_like(x)

    def step() -> None:
        torch.autograd.grad(block(x), [x, *block.parameters()], upstream)

    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    return {"first step s": round(first, 1), "later steps ms": round(milliseconds(step, 5, 1), 2)}


def measure(name: str, backend: str, limit: float) -> dict[str, Any]:
    """Measure it in a new process with empty caches; what did not finish is a row too."""
    command = [sys.executable, os.path.abspath(__file__), "--only", name, backend]
    with tempfile.TemporaryDirectory() as caches:
        environment = os.environ | {
            "TRITON_CACHE_DIR": f"{caches}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
            "JETLIT_FLA": "1" if backend == "fla-core" else "0",
        }
        try:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"remark": f"no first step within {limit:.0f} s, imports included"}
    if run.returncode:
        return {"remark": (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]}
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=LINEAR, default=LINEAR)
    parser.add_argument("--backends", nargs="+", choices=("ours", "fla-core"), default=["ours"])
    parser.add_argument("--limit", type=float, default=400, help="seconds that a row may take")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/block_start.py times CUDA kernels: run it on a machine with an NVIDIA GPU.")
    if arguments.only:
        print(json.dumps(start(*arguments.only)))
        return
    cases = [
        (name, backend)
        for backend in arguments.backends
        for name in arguments.blocks
        if backend == "ours" or name in WITH_FLA
    ]
    notes = (
        f"{BATCH}x{LENGTH} tokens, hidden {HIDDEN}, bf16. The first step is a forward and a backward pass in a process "
        "with empty Triton and Inductor caches, imports left out; later steps are the median of CUDA events."
    )
    rows: list[dict[str, Any]] = []
    for name, backend in cases:
        rows.append({"block": name, "backend": backend} | measure(name, backend, arguments.limit))
        print(rows[-1], flush=True)
        # What is measured is kept if the run is cut off later.
        earlier = with_earlier(rows, "block_start", ("block", "backend"))
        report("block_start", "First training step of a block", earlier, notes, show=False)


if __name__ == "__main__":
    main()
