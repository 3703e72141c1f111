"""What the GPU waited for in one training step: idle times and what the host did then, collectives, host operations."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

Interval = tuple[float, float]
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense")


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same points in as few intervals as possible, in order."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def length(intervals: Iterable[Interval]) -> float:
    """How much of the line intervals cover."""
    return sum(end - start for start, end in union(intervals))


def gaps(intervals: Iterable[Interval]) -> list[Interval]:
    """Return what lies between the first start and the last end and in no interval."""
    busy = union(intervals)
    return [(before[1], after[0]) for before, after in itertools.pairwise(busy)]


class StepTrace(lightning.Callback):
    """Traces one step of the first process as it goes, without a wait for the device before it.

    Args:
        step: its number, counted from 0; the one before it warms the profiler up.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step - 1 and trainer.is_global_zero:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profiler = profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=1, repeat=1))
            self._profiler.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._profiler is None or batch_idx not in (self.step - 1, self.step):
            return
        if batch_idx == self.step and torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profiler.step()
        if batch_idx == self.step:
            self._profiler.stop()

    def summary(self) -> str:
        """Return the trace in words and tables, milliseconds."""
        events = [event for event in self._profiler.events() if not event.name.startswith("ProfilerStep")]
        kernels = [e for e in events if e.device_type == DeviceType.CUDA and not _annotates(e)]
        host = [event for event in events if event.device_type == DeviceType.CPU]
        return "\n".join([*_of_the_gpu(kernels, host), *_of_the_host(host)])


def _annotates(event: Any) -> bool:
    """Annotations span the kernels below them and would count twice."""
    return event.is_user_annotation or event.name.startswith(("##", "FSDP::", "nccl:"))


def _span(event: Any) -> Interval:
    return event.time_range.start, event.time_range.end


def _of_the_gpu(kernels: list[Any], host: list[Any], longest: int = 25) -> list[str]:
    if not kernels:
        return ["No work of a GPU."]
    everything = union(map(_span, kernels))
    collectives = [_span(kernel) for kernel in kernels if "nccl" in kernel.name.lower()]
    others = length(_span(kernel) for kernel in kernels if "nccl" not in kernel.name.lower())
    begin, busy, idle = everything[0][0], length(everything), gaps(everything)
    lines = [
        f"GPU: {(everything[-1][1] - begin) / 1e3:.1f} ms from first to last of {len(kernels)} kernels, "
        f"{busy / 1e3:.1f} busy, {others / 1e3:.1f} of them computing or copying; idle "
        f"{sum(end - start for start, end in idle) / 1e3:.1f} ms, "
        f"{sum(end - start for start, end in idle if end - start > 1e3) / 1e3:.1f} of it in pieces over 1 ms and "
        f"{sum(end - start for start, end in idle if 20 < end - start <= 1e3) / 1e3:.1f} in pieces over 20 us",
        f"Collectives: {len(collectives)}, {length(collectives) / 1e3:.1f} ms, of which {(busy - others) / 1e3:.1f} "
        "with nothing beside them",
        "Longest idle times, and what the host was in then, innermost first:",
    ]
    for start, end in sorted(idle, key=lambda gap: gap[0] - gap[1])[:longest]:
        middle = (start + end) / 2
        running = [event for event in host if event.time_range.start <= middle <= event.time_range.end]
        running.sort(key=lambda event: event.time_range.elapsed_us())
        names = "; ".join(f"{event.name[:44]} {event.time_range.elapsed_us() / 1e3:.2f}" for event in running[:4])
        lines.append(f"{(end - start) / 1e3:9.3f} at {(start - begin) / 1e3:7.1f}  {names or '(Python)'}")
    return lines


def _of_the_host(host: list[Any], longest: int = 30) -> list[str]:
    times: dict[str, list[float]] = defaultdict(list)
    for event in host:
        # FSDP names the module in parentheses; dynamo the number of the graph.
        times[re.sub(r"\s*[(\[].*|\d+/\d+.*", "", event.name)].append(event.self_cpu_time_total)
    lines = [f"The host waited: {name} {len(times[name])} x" for name in WAITS if name in times]
    lines.append("Host operations by their own time, those they call left out:")
    for name, own in sorted(times.items(), key=lambda item: -sum(item[1]))[:longest]:
        lines.append(f"{sum(own) / 1e3:9.2f} {len(own):6d} x  {name[:90]}")
    return lines
