"""Tokens per second of the data loader alone, from local chunks: blocks of 4,096, one corpus and a mixture.

    python benchmarks/loader.py
    python benchmarks/loader.py --corpora FOLDER FOLDER --workers 0 4 8

The fastest step measured at 2B size, the super network's, consumes 45,364 tokens/s of an H100 (results/training.md);
its process's loader should give five times that. Without --corpora two are prepared from the sources of the Python that
runs this, with the byte tokenizer.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jetlit_data import CorpusSpec, prepare
from reporting import RESULTS, report

from jetlit.datamodules import TokenDataModule

CONSUMED = 45_364
WANTED = 5 * CONSUMED


def prepared(folder: str) -> list[str]:
    """Two corpora made from the sources of the running Python."""
    specs = {name: CorpusSpec("stdlib", max_tokens=4_000_000) for name in ("one", "other")}
    prepare(folder, specs, chunk_tokens=2**20, progress=False)
    return [f"{folder}/{name}" for name in specs]


def mixture(corpora: list[str]) -> dict[str, float]:
    """Their weights: each half of the one before."""
    return {path: 0.5**number for number, path in enumerate(corpora)}


def speeds(data: TokenDataModule, seconds: float) -> tuple[float, float]:
    """Tokens/s of the first epoch, which opens and checks every chunk, and of as many more as fill the time."""
    loader = data.train_dataloader()
    first, first_took = epoch(loader)
    tokens, took = 0, 0.0
    while took < seconds:
        more, more_took = epoch(loader)
        tokens, took = tokens + more, took + more_took
    return first / first_took, tokens / took


def measure(corpora: dict[str, float], workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    data = TokenDataModule(corpora, arguments.length, arguments.batch, num_workers=workers)
    first, later = speeds(data, arguments.seconds)
    return {
        "corpora": len(corpora),
        "workers": workers,
        "batch x length": f"{arguments.batch}x{arguments.length}",
        "first epoch, tokens/s": first,
        "later epochs, tokens/s": later,
        "wanted, tokens/s": WANTED,
        "slower one / a GPU's need": min(first, later) / CONSUMED,
    }


def epoch(loader: Iterable[dict[str, torch.Tensor]]) -> tuple[int, float]:
    """Tokens and seconds of one pass, its processes' start included."""
    start = time.perf_counter()
    tokens = sum(batch["input_ids"].numel() for batch in loader)
    return tokens, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", help="folders that `jetlit data` prepared")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, at least")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpora = arguments.corpora or prepared(folder)
        rows = [
            measure(chosen, workers, arguments)
            for chosen in ({corpora[0]: 1.0}, mixture(corpora))
            for workers in arguments.workers
        ]
    notes = "Chunks lie in the page cache; a slower disk or network bounds a first reading instead."
    report("loader", "Data loader alone, a process", rows, notes, folder=arguments.out)


if __name__ == "__main__":
    main()
