"""Where the GPU time of one training step goes."""

import time
from collections import defaultdict
from typing import Any

import lightning
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class StepProfile(lightning.Callback):
    """Profiles one step, from its batch's arrival to the end of the optimizer's work.

    Args:
        step: its number, counted from 0; those before it warm up.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.wall = 0.0
        self.kernels: dict[str, list[float]] = defaultdict(list)
        self._profiler: Any = None
        self._begun = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            torch.cuda.synchronize()
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.__enter__()
            self._begun = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            torch.cuda.synchronize()
            self.wall = time.perf_counter() - self._begun
            self._profiler.__exit__(None, None, None)
            for event in self._profiler.events():
                # Annotations span the kernels below them and would count them twice.
                annotation = event.is_user_annotation or event.name.startswith("##")
                if event.device_type == DeviceType.CUDA and not annotation:
                    self.kernels[event.name].append(event.time_range.elapsed_us() / 1e3)

    def table(self, top: int = 40) -> str:
        """Return the kernels that take longest, with their milliseconds, share of all and number of calls."""
        total = sum(map(sum, self.kernels.values()))
        ranked = sorted(self.kernels.items(), key=lambda item: -sum(item[1]))
        lines = [f"One step: {total:.1f} ms of GPU work in {1e3 * self.wall:.1f} ms, profiler included."]
        for name, times in [*ranked[:top], ("all the others", [sum(times) for _, times in ranked[top:]])]:
            lines.append(f"{sum(times):9.2f} ms {sum(times) / total:6.1%} {len(times):6d} x  {name[:110]}")
        return "\n".join(lines)
