"""The data loader alone, from local chunks: how long an epoch takes to begin, and tokens per second from then on.

Blocks are of 4,096 tokens, from one corpus and from a mixture.

    python benchmarks/loader.py
    python benchmarks/loader.py --corpora FOLDER FOLDER --workers 0 4 8

The fastest step measured at 2B size, the super network's, consumes 45,364 tokens/s of an H100 (results/training.md);
its process's loader should give five times that. Without --corpora two are prepared from the sources of the Python that
runs this, with the byte tokenizer.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jetlit_data import CorpusSpec, prepare
from reporting import RESULTS, report
from torch.utils.data import DataLoader

from jetlit.datamodules import Corpus, TokenDataModule

CONSUMED = 45_364
WANTED = 5 * CONSUMED


def prepared(folder: str) -> list[str]:
    """Two corpora made from the sources of the running Python."""
    specs = {name: CorpusSpec("stdlib", max_tokens=4_000_000) for name in ("one", "other")}
    prepare(folder, specs, chunk_tokens=2**20, progress=False)
    return [f"{folder}/{name}" for name in specs]


def mixture(folders: list[str]) -> list[Corpus]:
    """Weight each corpus half as much as the one before."""
    return [Corpus(path, 0.5**number) for number, path in enumerate(folders)]


class Epochs(NamedTuple):
    """What epochs took.

    Attributes:
        start: seconds until the first batch is there, the workers' start included.
        tokens: of the batches that were not there by then.
        seconds: that these took.
    """

    start: float
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens/s once an epoch has begun."""
        return self.tokens / self.seconds


def epochs(data: TokenDataModule, seconds: float) -> tuple[Epochs, Epochs]:
    """Time the first epoch, which opens and checks every chunk, and the mean of as many more as fill the time."""
    loader = data.train_dataloader()
    first, more = epoch(loader), [epoch(loader)]
    while sum(each.start + each.seconds for each in more) < seconds:
        more.append(epoch(loader))
    starts, tokens, took = zip(*more, strict=True)
    return first, Epochs(sum(starts) / len(starts), sum(tokens), sum(took))


def measure(corpora: list[Corpus], workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    data = TokenDataModule(corpora, arguments.length, arguments.batch, num_workers=workers)
    first, later = epochs(data, arguments.seconds)
    return {
        "corpora": len(corpora),
        "workers": workers,
        "batch x length": f"{arguments.batch}x{arguments.length}",
        "first epoch: begins after s": first.start,
        "tokens/s": first.speed,
        "later epochs: begin after s": later.start,
        "then tokens/s": later.speed,
        "wanted, tokens/s": WANTED,
        "slower one / a GPU's need": min(first.speed, later.speed) / CONSUMED,
    }


def epoch(loader: DataLoader[Any]) -> Epochs:
    """One pass. Batches that workers have ready when the first one comes count in neither tokens nor seconds.

    Raises:
        SystemExit: there are no others.
    """
    ready = loader.num_workers * (loader.prefetch_factor or 0)
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    begun = began = time.perf_counter()
    for _ in zip(range(ready), batches):
        began = time.perf_counter()
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    if not tokens:
        sys.exit(f"An epoch of {ready + 1} batches or fewer is over when it begins: take more text or fewer workers.")
    return Epochs(begun - start, tokens, time.perf_counter() - began)


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
            for chosen in (mixture(corpora[:1]), mixture(corpora))
            for workers in arguments.workers
        ]
    notes = "Chunks lie in the page cache; a slower disk or network bounds a first reading instead."
    report("loader", "Data loader alone, a process", rows, notes, folder=arguments.out)


if __name__ == "__main__":
    main()
