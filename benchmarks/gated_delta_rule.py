"""The gated delta rule's Triton kernels: time, memory, error; time of every kernel; other configurations of them.

    python benchmarks/gated_delta_rule.py                # forward, forward + backward, memory, errors
    python benchmarks/gated_delta_rule.py --kernels      # and the time of every kernel
    python benchmarks/gated_delta_rule.py --sweep        # and other configurations, checked against the present ones

The floor counts each input read and each output written once, and the products without padding, at the rates below.
"""

import multiprocessing
from typing import Any

import torch
from jetlit_kernels import gated_delta_rule
from jetlit_kernels.gated_delta_rule import backward as backward_pass
from jetlit_kernels.gated_delta_rule import forward as forward_pass
from jetlit_kernels.gated_delta_rule import plan
from jetlit_kernels.gated_delta_rule.arguments import Arguments
from jetlit_kernels.gated_delta_rule.plan import CONFIGS, Config, Kept, key_block
from jetlit_kernels.gated_delta_rule.reference import chunk_gated_delta_rule
from kernel_report import BYTES_PER_SECOND, Pass, Recurrence, Shape, distance, kernel_report
from timing import kernel_times

SHAPES: dict[str, Shape] = {
    "2B 8x4096": (8, 4096, 12, 96, 256),
    "2B 2x16384": (2, 16384, 12, 96, 256),
    "2B 1x32768": (1, 32768, 12, 96, 256),
    "4B 8x4096": (8, 4096, 16, 128, 256),
}
# Of fla-core 0.6.0 on one H100 80GB HBM3.
FLA = {"2B 8x4096": {"fla on an H100, forward ms": 1.22, "fla on an H100, both ms": 5.28}}
FLOPS_PER_SECOND = 6.8e14
SCANS = [(64, 4, 1), (64, 4, 2), (64, 4, 3), (64, 8, 1), (64, 8, 2), (64, 8, 3), (128, 8, 2)]
CANDIDATES = {
    "prepare": [(0, 4, 1), (0, 4, 1, 168), (0, 4, 2, 168), (0, 4, 1, 128)],
    "scan": SCANS,
    "states": SCANS,
    "reverse": SCANS,
    "gradient": [(64, 8, 2), (64, 8, 1), (64, 8, 3), (64, 16, 2)],
}


def draw(shape: Shape) -> list[torch.Tensor]:
    """Return q, k, v in bfloat16, g and beta in float32, as JetBlock has them."""
    B, T, H, K, V = shape
    q, k, v = (torch.randn(B, T, H, width, device="cuda").bfloat16() for width in (K, K, V))
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


def passes(shape: Shape) -> Pass:
    """With the SiLU of q and k, as JetBlock has it, and without autograd's own kernels."""
    tensors = [t.detach() for t in draw(shape)]
    do = torch.randn_like(tensors[2])
    arguments = Arguments(*tensors, None, None, scale=shape[3] ** -0.5, l2norm=True, silu=True, save=True)

    def run() -> tuple[torch.Tensor, ...]:
        o, final, *kept = forward_pass.forward(arguments)
        gradients = backward_pass.backward(arguments, Kept(*kept), do, None)
        return o, final, *gradients[:5]

    return run


def compile_one(job: tuple[str, tuple[int, ...], Shape]) -> str | None:
    kernel, candidate, shape = job
    CONFIGS[kernel, torch.bfloat16][key_block(shape[3])] = Config(*candidate)
    try:
        _scan_whole_rows()
        passes(shape)()
        torch.cuda.synchronize()
    except Exception as error:  # a configuration that does not fit is a result, not an end
        return f"{kernel} {candidate}: {type(error).__name__}"
    return None


def sweep(shape: Shape) -> list[dict[str, Any]]:
    """Time every candidate of every kernel, the others as they are, and compare all results with the present ones."""
    jobs = [(kernel, candidate, shape) for kernel, candidates in CANDIDATES.items() for candidate in candidates]
    with multiprocessing.get_context("spawn").Pool(8) as pool:  # fills Triton's cache
        failed = [failure for failure in pool.map(compile_one, jobs, chunksize=1) if failure]
    rows: list[dict[str, Any]] = [{"kernel": failure} for failure in failed]
    _scan_whole_rows()
    width, run = key_block(shape[3]), passes(shape)
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


def _scan_whole_rows() -> None:
    """Keep long rows from being cut into segments, which take two launches of the scan, and kernels from meeting."""
    plan.segments = lambda programs, room, chunks: 1
    plan.SETS = 1


def _function(kernel: str) -> str:
    return {"reverse": "reverse_scan_kernel", "prepare": "prepare_kernel", "gradient": "chunk_gradient_kernel"}[kernel]


if __name__ == "__main__":
    rule = Recurrence(
        name="gated_delta_rule",
        title="Gated delta rule, bfloat16",
        operator=gated_delta_rule,
        reference=chunk_gated_delta_rule,
        shapes=SHAPES,
        small=(2, 500, 4, 96, 256),
        draw=draw,
        floors=floors,
        passes=passes,
        sweep=sweep,
        elsewhere=FLA,
    )
    kernel_report(rule, __doc__)
