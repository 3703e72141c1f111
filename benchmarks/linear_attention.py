"""Linear attention with vector decays (GLA) in Triton: time, memory, error; every kernel; other configurations of them.

    python benchmarks/linear_attention.py                # forward, forward + backward, memory, errors
    python benchmarks/linear_attention.py --kernels      # and the time of every kernel
    python benchmarks/linear_attention.py --sweep        # and other configurations, checked against the present ones

The floor counts each input read and each output written once, at the rate below; it exceeds that of the products.
"""

from typing import Any

import torch
from jetlit_kernels import linear_attention
from jetlit_kernels.linear_attention.launch import CONFIGS, Config
from jetlit_kernels.linear_attention.reference import chunk_linear_attention
from kernel_report import BYTES_PER_SECOND, Pass, Recurrence, Shape, distance, kernel_report
from timing import kernel_times

SHAPES: dict[str, Shape] = {
    "2B 3x4096": (3, 4096, 12, 128, 128),
    "2B 8x4096": (8, 4096, 12, 128, 128),
    "2B 1x32768": (1, 32768, 12, 128, 128),
}
CANDIDATES = {
    "decay": [(32, 4, 1), (32, 8, 1), (64, 8, 1)],
    "attention": [(32, 4, 1), (32, 4, 1, 168), (64, 4, 2), (64, 8, 1), (128, 8, 1)],
    "scan": [(64, 4, 1), (64, 4, 2), (64, 4, 3), (64, 8, 1), (64, 8, 3), (128, 8, 2)],
    "read": [(64, 4, 1), (64, 4, 3), (128, 4, 2), (128, 8, 2)],
    "gradient": [(32, 4, 1), (32, 4, 2, 168), (32, 8, 2), (64, 8, 1), (64, 8, 2)],
}


def draw(shape: Shape) -> list[torch.Tensor]:
    """Return q, k, v in bfloat16 and g in float32, as the block GLA has them."""
    B, T, H, K, V = shape
    q, k, v = (torch.randn(B, T, H, width, device="cuda").bfloat16() for width in (K, K, V))
    g = -0.05 * torch.randn(B, T, H, K, device="cuda").exp()
    return [t.requires_grad_() for t in (q, k, v, g)]


def floors(shape: Shape) -> tuple[float, float]:
    """Floors of forward and forward + backward in ms."""
    B, T, H, K, V = shape
    forward = 2 * (2 * K + 2 * V) + 4 * K  # bytes a token and head
    backward = 2 * (4 * K + 3 * V) + 8 * K
    unit = 1e3 * B * T * H / BYTES_PER_SECOND
    return unit * forward, unit * (forward + backward)


def passes(shape: Shape) -> Pass:
    tensors = draw(shape)
    do = torch.randn_like(tensors[2])

    def run() -> tuple[torch.Tensor, ...]:
        o, state = linear_attention(*tensors, output_final_state=True)
        return o, state, *torch.autograd.grad(o, tensors, do)

    return run


def sweep(shape: Shape) -> list[dict[str, Any]]:
    """Time every candidate of every kernel, the others as they are, and compare all results with the present ones."""
    run = passes(shape)
    expected, rows = run(), []
    for kernel, candidates in CANDIDATES.items():
        present = CONFIGS[kernel, torch.bfloat16]
        for config in (present, *(Config(*candidate) for candidate in candidates)):
            CONFIGS[kernel, torch.bfloat16] = config
            row = {"kernel": kernel, "configuration": str(config)}
            try:
                row["difference"] = f"{max(distance(a, b) for a, b in zip(run(), expected, strict=True)):.0e}"
                row["µs"] = f"{sum(kernel_times(run)[f'{kernel}_kernel']) / 3:.0f}"
            except Exception as error:  # a configuration that does not fit is a result, not an end
                row["difference"] = type(error).__name__
            rows.append(row)
        CONFIGS[kernel, torch.bfloat16] = present
    return rows


if __name__ == "__main__":
    linear = Recurrence(
        name="linear_attention",
        title="Linear attention with vector decays, bfloat16",
        operator=linear_attention,
        reference=chunk_linear_attention,
        shapes=SHAPES,
        small=(2, 500, 4, 128, 128),
        draw=draw,
        floors=floors,
        passes=passes,
        sweep=sweep,
    )
    kernel_report(linear, __doc__)
