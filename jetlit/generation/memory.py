"""Tells an error for want of memory from any other."""

from __future__ import annotations

import torch

# Only PyTorch's own GPU allocator has a type for it. CUDA and Triton, cuBLAS, and PyTorch's CPU allocator only say so.
_WORDS = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Says whether an error means that memory ran out, or was raised while such an error was on its way.

    The second is what remains where a graph's capture is ended after running out in it.
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
