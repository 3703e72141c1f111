"""The products of a decode step, one by one: the library's product against `narrow_linear`, and its configurations.

    python benchmarks/decode_products.py                           # the table: products of the 2B, 1 to 16 sequences
    python benchmarks/decode_products.py --sweep --sequences 1     # every configuration at one sequence

Each product is timed inside a CUDA graph over so many copies of its weights that none is left in the L2 cache. Launches
follow one another as in a step: from Hopper on each begins while the one before ends.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import narrow_linear
from jetlit_kernels.narrow_linear import kernels
from reporting import RESULTS, report
from timing import ceilings, milliseconds

L2_BYTES = 256 * 2**20  # several times that of any card
# Name: (inputs, outputs, what narrow_linear does beside the product).
PRODUCTS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "JetBlock in (q k v g w1 b a)": (1536, 8856, ("norm_weight",)),
    "JetBlock kernels (w2)": (384, 12288, ("silu_input", "bias")),
    "JetBlock out": (3072, 1536, ("add_to",)),
    "attention in (q k v)": (1536, 2048, ("norm_weight", "bias")),
    "attention out": (1536, 1536, ("add_to",)),
    "MLP in (gate up)": (1536, 17920, ("norm_weight", "swiglu")),
    "MLP out": (8960, 1536, ("add_to",)),
    "head": (1536, 151936, ("norm_weight",)),
}
# For one row each thread takes 16 bytes of each row of the weights; more rows go through the tensor cores in stages.
ONE_ROW = [kernels.Config(outputs, 256 * warps, warps, 1) for outputs in (2, 4, 8) for warps in (2, 4, 8, 16)]
ROWS = [
    kernels.Config(outputs, inputs, warps, stages)
    for outputs, inputs, warps in ((8, 256, 4), (8, 512, 4), (16, 128, 2), (16, 256, 4), (16, 512, 4), (32, 128, 2))
    for stages in (3, 4, 6)
]


def arguments_of(name: str, rows: int) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Random arguments of a product, and copies of its weights."""
    width, outputs, parts = PRODUCTS[name]
    copies = min(64, L2_BYTES // (2 * width * outputs) + 2)
    made: dict[str, Any] = {"x": torch.randn(rows, width, device="cuda").bfloat16()}
    shapes = {"norm_weight": (width,), "bias": (outputs,), "add_to": (rows, outputs)}
    for part in parts:
        made[part] = torch.randn(shapes[part], device="cuda").bfloat16() if part in shapes else True
    return made, [(torch.randn(outputs, width, device="cuda") * width**-0.5).bfloat16() for _ in range(copies)]


def microseconds(call: Callable[[torch.Tensor], Any], weights: list[torch.Tensor]) -> float:
    """Time of one call, from a graph that calls once for each copy of the weights."""
    call(weights[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            call(weight)
    return milliseconds(graph.replay, repeats=8, warm_up=2) / len(weights) * 1e3


def compare(name: str, count: int, bandwidth: float) -> dict[str, Any]:
    """One product with `count` sequences."""
    made, weights = arguments_of(name, count)
    bound = weights[0].nbytes / bandwidth * 1e6
    own = microseconds(lambda weight: narrow_linear(**made, weight=weight, backend="triton"), weights)
    return {
        "product": name,
        "sequences": count,
        "weights' bound µs": bound,
        "library's product alone µs": microseconds(lambda weight: F.linear(made["x"], weight), weights),
        "with its neighbors in PyTorch µs": microseconds(
            lambda weight: narrow_linear(**made, weight=weight, backend="torch"), weights
        ),
        "narrow_linear µs": own,
        "share of bound": bound / own,
    }


def sweep(name: str, count: int, bandwidth: float) -> list[dict[str, Any]]:
    """Return the three fastest configurations of a product with `count` sequences, and the one in use."""
    made, weights = arguments_of(name, count)
    swiglu = made.get("swiglu", False)
    times: dict[kernels.Config, float] = {}

    def run(weight: torch.Tensor, config: kernels.Config) -> torch.Tensor:
        parts = made.get("bias"), made.get("norm_weight"), 1e-6, made.get("silu_input", False), swiglu
        return kernels.forward(made["x"], weight, *parts, made.get("add_to"), config)

    width = made["x"].shape[1]
    configs = [config for config in ONE_ROW if width > config.BK // 2] if count == 1 else ROWS
    for config in configs:
        try:
            times[config] = microseconds(functools.partial(run, config=config), weights)
        except Exception as error:  # Triton's own classes differ by version; too much shared memory, mostly
            print(f"{name}: {config} does not run ({type(error).__name__})")
    used = kernels.choose(torch.bfloat16, count, width, weights[0].shape[0] // (2 if swiglu else 1))
    shown = [config for config in sorted(times, key=times.__getitem__) if config == used or config in best(times)]
    bound = weights[0].nbytes / bandwidth * 1e6
    print(f"{name}, {count}: {[(str(config), round(times[config], 2)) for config in shown]}", flush=True)
    return [
        {
            "product": name,
            "sequences": count,
            "configuration": str(config),
            "µs": times[config],
            "share of bound": bound / times[config],
            "in use": "yes" if config == used else "",
        }
        for config in shown
    ]


def best(times: dict[kernels.Config, float]) -> list[kernels.Config]:
    """Return the three fastest."""
    return sorted(times, key=times.__getitem__)[:3]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bandwidth = ceilings()["bytes"]
    notes = f"Device copy {bandwidth / 1e12:.2f} TB/s, bytes read and written; the bound is the weights' bytes over it."
    if arguments.sweep:
        rows = [row for name in PRODUCTS for count in arguments.sequences for row in sweep(name, count, bandwidth)]
        title = "Configurations of narrow_linear, bf16: the fastest and the one in use"
        report("decode_products_sweep", title, rows, notes, arguments.out)
    else:
        rows = [compare(name, count, bandwidth) for name in PRODUCTS for count in arguments.sequences]
        report("decode_products", "Products of the 2B's decode step, bf16", rows, notes, arguments.out)


if __name__ == "__main__":
    main()
