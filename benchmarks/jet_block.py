"""The JetBlock against one assembled from ready parts: time, memory, error, share of the floor; decode; cold start.

    python benchmarks/jet_block.py                       # ours alone
    python benchmarks/jet_block.py --opponent            # and the opponent, in the same process (fla-core autotunes)
    python benchmarks/jet_block.py --dims 2B --shapes 8x4096
    python benchmarks/jet_block.py --parts decode cold-start

Every row is printed and reported as soon as it is known; rows of earlier runs that are not measured again stay.

The opponent: the same projections, the kernels [B, T, D, W] materialized by the generator's linear layer, a compiled
convolution over them, fla-core's chunked gated delta rule, a compiled gated norm. fla-core refuses its gated backward
on Hopper with the Tritons that miscompile one pattern; the guard is set aside, which gave right gradients at K 96
and 128.
"""

import argparse
import datetime
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jetlit_kernels import gated_rms_norm, jet_decode_step, log_decay_and_beta
from reporting import RESULTS, report, with_earlier
from timing import ceilings, milliseconds

from jetlit.blocks.base import CarriedState
from jetlit.blocks.jet import JetBlock

DIMS: dict[str, dict[str, Any]] = {
    "2B": {"hidden_size": 1536, "num_heads": 12, "head_dim": 96, "expand_v": 2.6666666667},
    "4B": {"hidden_size": 2048, "num_heads": 16, "head_dim": 128, "expand_v": 2.0},
}
SHAPES = ("8x4096", "2x16384", "1x32768")
PARTS = ("block", "decode", "cold-start")
# The released block on one H100 80GB HBM3, bf16: forward ms, forward + backward ms, peak MiB; and the targets there.
RELEASED = {("2B", "8x4096"): (5.35, 17.26, 4233), ("4B", "8x4096"): (8.29, 26.25, 4365)}
WANTED = {("2B", "8x4096"): (3.2, 10.8, 1900), ("4B", "8x4096"): (5.5, 17.5, None)}


class Opponent(JetBlock):
    """The JetBlock from ready parts; the same parameters."""

    convolve: Callable[..., torch.Tensor]
    norm: Callable[..., torch.Tensor]
    rule: Callable[..., Any]

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        generator = self.dynamic_conv1d.kernel_generator
        q, k = self.split_heads(F.silu(self.q_proj(hidden))), self.split_heads(F.silu(self.k_proj(hidden)))
        kernels = generator.w2(F.silu(generator.w1(hidden))).unflatten(-1, (self.value_dim, -1))
        v = self.split_heads(Opponent.convolve(self.v_proj(hidden), kernels))
        g, beta = log_decay_and_beta(self.b_proj(hidden), self.a_proj(hidden), self.A_log, self.dt_bias)
        o, _ = Opponent.rule(q, k, v, g, beta.to(q.dtype), use_qk_l2norm_in_kernel=True)
        gate = self.split_heads(self.g_proj(hidden))
        return self.o_proj(Opponent.norm(o, gate, self.o_norm.weight, self.norm_eps).flatten(2))


def convolution_over_kernels(v: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    taps = kernels.shape[-1]
    padded = F.pad(v, (0, 0, taps - 1, 0))
    total = torch.zeros_like(v)
    for j in range(taps):
        total = total + kernels[..., j] * padded[:, j : j + v.shape[1]]
    return F.silu(total)


def assemble_opponent() -> str | None:
    """Prepare the opponent's parts; return the sentence that says why there is none, or None."""
    try:
        import fla.ops.common.chunk_o as chunk_o
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError as error:
        return f"The opponent needs fla-core ({error}): install it with `pip install jetlit[fla]` on a CUDA machine."
    chunk_o.IS_NVIDIA_HOPPER = False
    Opponent.rule = staticmethod(chunk_gated_delta_rule)
    Opponent.convolve = staticmethod(torch.compile(convolution_over_kernels))
    Opponent.norm = staticmethod(torch.compile(functools.partial(gated_rms_norm, backend="torch")))
    return None


def new_block(kind: type[JetBlock], dims: str) -> JetBlock:
    """Return a block in bf16 with a generator that matters: its released initialization is zero."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        block = kind(**DIMS[dims])
    generator = block.dynamic_conv1d.kernel_generator
    torch.nn.init.normal_(generator.w1.weight, std=0.05)
    torch.nn.init.normal_(generator.w2.weight, std=0.05)
    torch.nn.init.normal_(generator.w2.bias, std=0.5)
    return block.bfloat16()


def step(block: JetBlock, x: torch.Tensor, upstream: torch.Tensor) -> None:
    block(x).backward(upstream)
    x.grad = None
    for parameter in block.parameters():
        parameter.grad = None


def errors(block: JetBlock, dims: str) -> tuple[float, float]:
    """Relative error against float64 on 2 x 500 tokens: of the output, and the largest of all gradients."""
    exact = JetBlock(**DIMS[dims]).cuda().double()
    exact.load_state_dict(block.state_dict())
    x = torch.randn(2, 500, DIMS[dims]["hidden_size"], device="cuda").bfloat16()
    upstream = torch.randn_like(x)
    results = []
    for module, dtype in ((block, torch.bfloat16), (exact, torch.float64)):
        inputs = x.to(dtype).requires_grad_()
        out = module(inputs)
        results.append([out, *torch.autograd.grad(out, [inputs, *module.parameters()], upstream.to(dtype))])
    relative = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True)]
    return relative[0], max(relative[1:])


def floor(block: JetBlock, tokens: int, ceiling: dict[str, float]) -> tuple[float, float]:
    """Milliseconds that the matrix products and the recurrence's bytes take at the ceilings, forward and both ways."""
    products = 2 * tokens * sum(p.numel() for p in block.parameters() if p.ndim == 2) / ceiling["flops"]
    recurrence = 2 * tokens * 2 * (block.key_dim + block.value_dim) / ceiling["bytes"]
    return (products + recurrence) * 1e3, (3 * products + 3 * recurrence) * 1e3


def measure(kind: type[JetBlock], dims: str, shape: str, ceiling: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield a block's row twice: with the forward pass alone, in case the backward pass fails, and whole."""
    batch, length = map(int, shape.split("x"))
    block = new_block(kind, dims)
    x = torch.randn(batch, length, DIMS[dims]["hidden_size"], device="cuda").bfloat16().requires_grad_()
    upstream = torch.randn_like(x)
    forward = milliseconds(lambda: block(x))
    floors = floor(block, batch * length, ceiling)
    row = {
        "what": f"{'ours' if kind is JetBlock else 'opponent'}, {dims}, {shape}",
        "forward ms": round(forward, 3),
        "floor / time": f"{floors[0] / forward:.0%} / -",
    }
    yield row
    both = milliseconds(lambda: step(block, x, upstream))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(block, x, upstream)
    peak = (torch.cuda.max_memory_allocated() - held) / 2**20
    output, gradient = errors(block, dims)
    yield row | {
        "forward + backward ms": round(both, 3),
        "peak MiB": round(peak),
        "floor / time": f"{floors[0] / forward:.0%} / {floors[1] / both:.0%}",
        "error, output / worst gradient": f"{output:.1e} / {gradient:.1e}",
    }


def measure_opponent(dims: str, shape: str, ceiling: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Like `measure`; an opponent that cannot run leaves a row that says why."""
    row: dict[str, Any] = {"what": f"opponent, {dims}, {shape}"}
    try:
        for row in measure(Opponent, dims, shape, ceiling):
            yield row
    except Exception as error:  # whatever fla-core refuses or breaks at: our own rows must not be lost with it
        yield row | {"remark": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def published(dims: str, shape: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of what the released block takes and of the targets, where they are known."""
    columns = ("forward ms", "forward + backward ms", "peak MiB")
    for name, figures in (("released", RELEASED), ("wanted", WANTED)):
        if (dims, shape) in figures:
            row = {"what": f"{name}, {dims}, {shape}, on an H100"}
            yield row | dict(zip(columns, figures[dims, shape], strict=True))


def decode_inputs(dims: str, batch: int) -> dict[str, Any]:
    heads, key = DIMS[dims]["num_heads"], DIMS[dims]["head_dim"]
    value = int(key * DIMS[dims]["expand_v"])
    shapes = {
        "q": (batch, heads, key),
        "k": (batch, heads, key),
        "v": (batch, heads, value),
        "gate": (batch, heads, value),
        "beta_logits": (batch, heads),
        "a": (batch, heads),
        "conv_kernels": (batch, heads * value, 4),
        "conv_state": (batch, heads * value, 4),
    }
    inputs: dict[str, Any] = {name: torch.randn(shape, device="cuda").bfloat16() for name, shape in shapes.items()}
    inputs |= {name: torch.randn(heads, device="cuda") for name in ("A_log", "dt_bias")}
    inputs["norm_weight"] = torch.ones(value, device="cuda")
    inputs["recurrent_state"] = torch.randn(batch, heads, key, value, device="cuda")
    return inputs


def graphed(call: Callable[[int], Any], sets: int) -> float:
    """Milliseconds a call inside a CUDA graph, over `sets` sets of inputs in turn so that no cache holds them."""
    for number in range(sets):
        call(number)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(5):
            for number in range(sets):
                call(number)
    return milliseconds(graph.replay) / (5 * sets)


def measure_decode(dims: str, batch: int, ceiling: dict[str, float], opponent: bool) -> list[dict[str, Any]]:
    sets = [decode_inputs(dims, batch) for _ in range(3)]
    least = 2 * sets[0]["recurrent_state"].nbytes / ceiling["bytes"] * 1e3
    times = {"ours": graphed(lambda n: jet_decode_step(**sets[n]), len(sets))}
    if opponent:
        times["opponent, recurrence alone"] = graphed(lambda n: fla_recurrence(sets[n]), len(sets))
    return [
        {
            "what": f"{name}, {dims}, decode step, batch {batch}",
            "forward ms": round(value, 4),
            "floor / time": f"{least / value:.0%}",
        }
        for name, value in times.items()
    ]


def fla_recurrence(inputs: dict[str, Any]) -> None:
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    fused_recurrent_gated_delta_rule(
        *(inputs[name][:, None] for name in ("q", "k", "v")),
        g=-inputs["a"][:, None].float().abs(),
        beta=inputs["beta_logits"][:, None].sigmoid(),
        initial_state=inputs["recurrent_state"],
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )


def cold_start() -> dict[str, Any]:
    """Seconds of the first forward and backward of a block in a process with an empty Triton cache."""
    code = (
        "import time, torch; from jet_block import JetBlock, new_block, step; block = new_block(JetBlock, '2B');"
        "x = torch.randn(8, 4096, 1536, device='cuda').bfloat16().requires_grad_(); u = torch.randn_like(x);"
        "torch.cuda.synchronize(); start = time.perf_counter(); step(block, x, u); torch.cuda.synchronize();"
        "print('seconds', time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    seconds = float(run.stdout.split("seconds")[1])
    return {"what": "ours, 2B, 8x4096, cold start", "seconds": round(seconds, 1)}


def measurements(arguments: argparse.Namespace, ceiling: dict[str, float], opponent: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of the chosen parts; a row may come again with more columns."""
    if "block" in arguments.parts:
        for dims in arguments.dims:
            for shape in arguments.shapes:
                yield list(measure(JetBlock, dims, shape, ceiling))[-1]
                if opponent:
                    yield from measure_opponent(dims, shape, ceiling)
                yield from published(dims, shape)
    if "decode" in arguments.parts:
        for dims in arguments.dims:
            for batch in (1, 128):
                yield from measure_decode(dims, batch, ceiling, opponent)
    if "cold-start" in arguments.parts:
        yield cold_start()


def show(rows: list[dict[str, Any]], notes: str, folder: Path, printed: bool = True) -> None:
    """Write the rows among those of the report before."""
    rows = with_earlier(rows, "jet_block", ("what",), folder)
    report("jet_block", "JetBlock in bf16", rows, notes, folder, printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opponent", action="store_true", help="also time the opponent (needs fla-core)")
    parser.add_argument("--dims", nargs="+", choices=DIMS, default=list(DIMS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/jet_block.py times CUDA kernels: run it on a machine with an NVIDIA GPU.")
    missing = assemble_opponent() if arguments.opponent else "Run with --opponent for the opponent's rows."
    ceiling = ceilings()
    notes = (
        f"Ceilings measured in the last run: copy {ceiling['bytes'] / 1e12:.2f} TB/s, bf16 product "
        f"{ceiling['flops'] / 1e12:.0f} TFLOP/s. Floor: the block's matrix products (three times as many both ways) "
        "and the recurrence's inputs and outputs at the rates of the row's own run; decode: the state read and written "
        "once. Forward runs with the graph recorded. Errors against float64 on 2x500 tokens. Medians of CUDA events. "
        f"The line below is that of the last run. {missing or ''}"
    )
    when = {"measured": f"{datetime.datetime.now(datetime.UTC).date().isoformat()}, {torch.cuda.get_device_name()}"}
    rows: list[dict[str, Any]] = []
    for row in measurements(arguments, ceiling, missing is None):
        print(row, flush=True)
        rows.append(row | ({"measured": None} if row["what"].startswith(("released", "wanted")) else when))
        # What is measured is kept if the run is cut off later.
        show(rows, notes, arguments.out, printed=False)
    show(rows, notes, arguments.out)


if __name__ == "__main__":
    main()
