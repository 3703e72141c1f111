"""The gated delta rule's Triton kernels: time, memory, error; time of every kernel; other configurations of them.

    python benchmarks/gated_delta_rule.py                # forward, forward + backward, memory, errors
    python benchmarks/gated_delta_rule.py --kernels      # and the time of every kernel
    python benchmarks/gated_delta_rule.py --sweep        # and other configurations, checked against the present ones

The floor counts each input read and each output written once, and the products without padding, at the rates below.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from jetlit_kernels import gated_delta_rule
from jetlit_kernels.reference.gated_delta_rule import chunk_gated_delta_rule
from jetlit_kernels.triton import gated_delta_rule as launcher
from jetlit_kernels.triton.gated_delta_rule import CONFIGS, Config
from kernel_report import kernel_report
from timing import kernel_times, milliseconds

Shape = tuple[int, int, int, int, int]  # B, T, H, K, V
SHAPES: dict[str, Shape] = {
    "2B 8x4096": (8, 4096, 12, 96, 256),
    "2B 2x16384": (2, 16384, 12, 96, 256),
    "2B 1x32768": (1, 32768, 12, 96, 256),
    "4B 8x4096": (8, 4096, 16, 128, 256),
}
# Forward, forward + backward in ms, of fla-core 0.6.0 on one H100 80GB HBM3.
FLA = {"2B 8x4096": (1.22, 5.28)}
BYTES_PER_SECOND, FLOPS_PER_SECOND = 3.0e12, 6.8e14
SCANS = [(64, 4, 1), (64, 4, 2), (64, 4, 3), (64, 8, 1), (64, 8, 2), (64, 8, 3), (128, 8, 2)]
CANDIDATES = {
    "prepare": [(0, 4, 1), (0, 4, 1, 168), (0, 4, 1, 128)],
    "scan": SCANS,
    "states": SCANS,
    "reverse": SCANS,
    "gradient": [(64, 8, 2), (64, 8, 1), (64, 8, 3), (64, 16, 2)],
}


def draw(shape: Shape, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    B, T, H, K, V = shape
    q, k, v = (torch.randn(B, T, H, width, device="cuda").to(dtype) for width in (K, K, V))
    g = -0.1 * torch.randn(B, T, H, device="cuda").exp()
    return [t.requires_grad_() for t in (q, k, v, g, torch.rand(B, T, H, device="cuda"))]


def floors(shape: Shape, chunk: int = 64) -> tuple[float, float]:
    """Floors of forward and forward + backward in ms: the larger of bytes and products."""
    B, T, H, K, V = shape
    tokens = B * T * H
    forward_bytes, backward_bytes = tokens * 2 * (2 * K + 2 * V), tokens * 2 * (4 * K + 4 * V)
    # Per token: two products of chunk and K, two of chunk and V, three of K and V; backward about 2.5 times as many.
    forward_flops = tokens * 2 * (2 * chunk * K + 2 * chunk * V + 3 * K * V)
    forward = max(forward_bytes / BYTES_PER_SECOND, forward_flops / FLOPS_PER_SECOND)
    backward = max(backward_bytes / BYTES_PER_SECOND, 2.5 * forward_flops / FLOPS_PER_SECOND)
    return 1e3 * forward, 1e3 * (forward + backward)


def errors() -> tuple[float, float]:
    """The largest relative error of output and gradients against float64 at a small shape."""
    tensors = draw((2, 500, 4, 96, 256))
    exact = [t.detach().double().requires_grad_() for t in tensors]
    o, expected = gated_delta_rule(*tensors)[0], chunk_gated_delta_rule(*exact)[0]
    do = torch.randn_like(o)
    pairs = zip(torch.autograd.grad(o, tensors, do), torch.autograd.grad(expected, exact, do.double()), strict=True)
    return distance(o, expected), max(distance(a, b) for a, b in pairs)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def measure(name: str, shape: Shape) -> dict[str, Any]:
    tensors = draw(shape)
    do = torch.randn_like(tensors[2])

    def both() -> None:
        torch.autograd.grad(gated_delta_rule(*tensors)[0], tensors, do)

    with torch.no_grad():
        forward = milliseconds(lambda: gated_delta_rule(*tensors))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    whole = milliseconds(both, 9)
    floor = floors(shape)
    row = {
        "shape": name,
        "forward ms": forward,
        "share of its floor": forward / floor[0],
        "forward + backward ms": whole,
        "share of their floor": whole / floor[1],
        "peak MiB above inputs": round((torch.cuda.max_memory_allocated() - held) / 2**20),
    }
    if name in FLA:
        row |= {"fla on an H100, forward ms": FLA[name][0], "fla on an H100, both ms": FLA[name][1]}
    return row


def passes(shape: Shape) -> Callable[[], tuple[torch.Tensor, ...]]:
    tensors = [t.detach() for t in draw(shape)]
    do, scale = torch.randn_like(tensors[2]), shape[3] ** -0.5

    def run() -> tuple[torch.Tensor, ...]:
        o, final, *kept = launcher.forward(*tensors, None, None, scale, True, True, True)
        return o, final, *launcher.backward(*tensors, None, None, launcher.Kept(*kept), do, None, scale, True, True)[:5]

    return run


def kernels(shape: Shape) -> list[dict[str, Any]]:
    times = kernel_times(passes(shape))
    return [
        {"kernel": name, "launches": len(t) // 3, "total µs": sum(t) / 3} for name, t in times.items() if sum(t) > 30
    ]


def compile_one(job: tuple[str, tuple[int, ...], Shape]) -> str | None:
    kernel, candidate, shape = job
    CONFIGS[kernel, torch.bfloat16][launcher.key_block(shape[3])] = Config(*candidate)
    try:
        passes(shape)()
        torch.cuda.synchronize()
    except Exception as error:  # a configuration that does not fit is a result, not an end
        return f"{kernel} {candidate}: {type(error).__name__}"
    return None


def sweep(shape: Shape) -> list[dict[str, Any]]:
    """Times every candidate of every kernel, the others as they are, and compares all results with the present ones."""
    jobs = [(kernel, candidate, shape) for kernel, candidates in CANDIDATES.items() for candidate in candidates]
    with multiprocessing.get_context("spawn").Pool(8) as pool:  # fills Triton's cache
        failed = [failure for failure in pool.map(compile_one, jobs, chunksize=1) if failure]
    rows: list[dict[str, Any]] = [{"kernel": failure} for failure in failed]
    width, run = launcher.key_block(shape[3]), passes(shape)
    expected = run()
    for kernel, candidate, _ in jobs:
        present = CONFIGS[kernel, torch.bfloat16][width]
        if any(f"{kernel} {candidate}:" in failure for failure in failed):
            continue
        CONFIGS[kernel, torch.bfloat16][width] = Config(*candidate)
        error = max(distance(a, b) for a, b in zip(run(), expected, strict=True))
        launches = kernel_times(run)["scan_kernel" if kernel in ("scan", "states") else _function(kernel)]
        if kernel in ("scan", "states"):  # one kernel serves both: the first launch of a call is the forward pass
            each = len(launches) // 3
            launches = [t for n, t in enumerate(launches) if (n % each == 0) == (kernel == "scan")]
        CONFIGS[kernel, torch.bfloat16][width] = present
        rows.append(
            {"kernel": kernel, "configuration": candidate, "µs": sum(launches) / 3, "difference": f"{error:.0e}"}
        )
    return rows


def _function(kernel: str) -> str:
    return {"reverse": "reverse_scan_kernel", "prepare": "prepare_kernel", "gradient": "chunk_gradient_kernel"}[kernel]


if __name__ == "__main__":
    kernel_report("gated_delta_rule", "Gated delta rule, bfloat16", __doc__, SHAPES, measure, errors, kernels, sweep)
