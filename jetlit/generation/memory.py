"""What memory is free, and which errors are for want of it."""

from __future__ import annotations

import os

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


def free_bytes(device: torch.device) -> int | None:
    """Returns the memory that a cache can take: on a GPU what is free, on a CPU all there is; None if not known."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
