"""A step captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP_STEPS = 3


class CapturedStep:
    """A function of fixed tensors, captured once and replayed.

    Args:
        run: reads and writes tensors that stay where they are, and returns its result. It is run a few times before
            the capture, so the state it changes must be reset afterwards.
        rewind: called before each of those runs.
    """

    def __init__(self, run: Callable[[], torch.Tensor], rewind: Callable[[], None]) -> None:
        # On the current stream: cuBLAS keeps a workspace (32 MiB on an H100) for every stream that it ever ran on, so
        # that a new stream for each capture would take memory that nothing gives back.
        for _ in range(_WARM_UP_STEPS):
            rewind()
            run()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = run()

    def __call__(self) -> torch.Tensor:
        """Replays the step; the result is overwritten by the next call."""
        self.graph.replay()
        return self.result
