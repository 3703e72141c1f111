"""What bounds a prefill of prompts of 4,096 tokens: the host's launches, products, or what is no product.

    python benchmarks/prefill.py            # the 2B and Qwen3-1.7B's shape, one prompt and sixteen

Random weights in bf16. `wall` is a prefill from call to end, `host` until everything is launched, `busy` the time in
which the GPU computes or copies, by torch.profiler; products are the matrix products among its kernels.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from generation import MODELS, prefill_chunk
from reporting import RESULTS, report, with_earlier
from timing import launches
from tracing import length

from jetlit.generation import GenerationEngine
from jetlit.models import JetNemotronForCausalLM

NOTES = "Where `wall` is `host`, the GPU waits for launches; where it is `GPU busy`, the GPU is the bound."
PRODUCTS = ("gemm", "nvjet", "cutlass", "xmma")
NO_PRODUCTS = ("fmha", "flash")


def milliseconds(engine: GenerationEngine, ids: torch.Tensor) -> tuple[float, float]:
    """Of a prefill, until all is launched and until all is done."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    engine.prefill(ids)
    launched = time.perf_counter() - begun
    torch.cuda.synchronize()
    return 1e3 * launched, 1e3 * (time.perf_counter() - begun)


def measure(name: str, model: JetNemotronForCausalLM, batch: int, context: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    engine = GenerationEngine(model, batch, context + 16, prefill_chunk=prefill_chunk(batch))
    ids = torch.randint(model.config.vocab_size, (batch, context), device="cuda")
    for _ in range(3):
        engine.prefill(ids)
    host, wall = (statistics.median(each) for each in zip(*(milliseconds(engine, ids) for _ in range(repeats))))
    events = launches(lambda: engine.prefill(ids))
    products = [
        event.device_time
        for event in events
        if any(part in event.name for part in PRODUCTS) and not any(part in event.name for part in NO_PRODUCTS)
    ]
    return {
        "model": name,
        "batch x context": f"{batch}x{context}",
        "tokens/s": batch * context / wall * 1e3,
        "wall ms": wall,
        "host ms": host,
        "GPU busy ms": length((event.time_range.start, event.time_range.end) for event in events) / 1e3,
        "of it products ms": sum(products) / 1e3,
        "launches": len(events),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["2B", "Qwen3-1.7B"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in arguments.models:
        model = MODELS[name]()
        rows = [measure(name, model, batch, arguments.context, arguments.repeats) for batch in arguments.batches]
        rows = with_earlier(rows, "prefill", ("model", "batch x context"), arguments.out)
        report("prefill", "Prefill of whole prompts, bf16, random weights, one GPU", rows, NOTES, arguments.out)
        del model


if __name__ == "__main__":
    main()
