"""The losses over a vocabulary of 151,936, loss and gradient: Triton against plain PyTorch, and the bandwidth's bound.

python benchmarks/token_losses.py
python benchmarks/token_losses.py --sweep    # blocks and warps
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jetlit_kernels import cross_entropy_with_gradient, kl_with_gradient
from jetlit_kernels.token_losses import kernels
from reporting import RESULTS, report
from timing import ceilings, milliseconds

VOCABULARY = 151_936


def cases(rows: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]]:
    """Name -> function, arguments, bytes that must pass: every logit twice, the gradient once."""
    student, teacher = (torch.randn(rows, VOCABULARY, device="cuda") for _ in range(2))
    labels = torch.randint(VOCABULARY, (rows,), device="cuda")
    rest = torch.full((rows,), 1 / rows, device="cuda"), torch.bfloat16
    return {
        "KL": (kl_with_gradient, (student, teacher, *rest), 18 * student.numel()),
        "cross entropy": (cross_entropy_with_gradient, (student, labels, *rest), 10 * student.numel()),
    }


def sweep(rows: int) -> None:
    for name, (function, arguments, size) in cases(rows).items():
        for kernels.BLOCK, kernels.WARPS in itertools.product((2048, 4096, 8192, 16384), (4, 8, 16, 32)):
            took = milliseconds(partial(function, *arguments))
            print(f"{name}: block {kernels.BLOCK}, {kernels.WARPS} warps: {took:.3f} ms, {size / took / 1e6:.0f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.sweep:
        sweep(arguments.rows)
        return
    peak = ceilings()["bytes"]
    rows = []
    for name, (function, inputs, size) in cases(arguments.rows).items():
        took = milliseconds(partial(function, *inputs))
        rows.append(
            {
                "loss": name,
                "rows": arguments.rows,
                "Triton, ms": took,
                "PyTorch, ms": milliseconds(partial(function, *inputs, backend="torch"), repeats=5, warm_up=2),
                "bound, ms": size / peak * 1e3,
                "of the bandwidth": size / peak * 1e3 / took,
            }
        )
    report("token_losses", "Losses of rows with their gradients", rows, folder=arguments.out)


if __name__ == "__main__":
    main()
