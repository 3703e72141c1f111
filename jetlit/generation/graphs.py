"""A step captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP_STEPS = 3


class CapturedStep:
    """A function of fixed tensors, captured once and replayed.

    Args:
        run: reads and writes tensors that stay in place, and returns its result. It runs a few times before the
            capture, so the state it changes must be reset afterwards.
        rewind: called before each of these runs.
    """

    def __init__(self, run: Callable[[], torch.Tensor], rewind: Callable[[], None]) -> None:
        # On the current stream: cuBLAS keeps a workspace (32 MiB on an H100) for every stream it ever ran on.
        for _ in range(_WARM_UP_STEPS):
            rewind()
            run()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = run()

    def __call__(self) -> torch.Tensor:
        """Replay the step; the next call overwrites the result."""
        self.graph.replay()
        return self.result
