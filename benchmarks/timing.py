"""Times on a GPU: medians of CUDA events, single kernels, and the ceilings of the device they are compared with."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


def milliseconds(call: Callable[[], Any], repeats: int = 20, warm_up: int = 4) -> float:
    """Median of CUDA-event timings."""
    for _ in range(warm_up):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def launches(call: Callable[[], Any], repeats: int = 1) -> list[Any]:
    """Return the profiler's event of everything that the GPU does in `repeats` calls, after one that warms up."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    return [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def kernel_times(call: Callable[[], Any], repeats: int = 3) -> dict[str, list[float]]:
    """Microseconds of every launch by kernel, over `repeats` calls."""
    times = defaultdict(list)
    for event in launches(call, repeats):
        times[event.name].append(event.device_time)
    return times


def ceilings() -> dict[str, float]:
    """Measure what this GPU does at best: bytes/s of a copy (read + written) and FLOP/s of a bf16 product."""
    source = torch.randn(2**29, device="cuda").bfloat16()
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) * 1e3
    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    return {"bytes": copy, "flops": 2 * 8192**3 / milliseconds(lambda: a @ a) * 1e3}
