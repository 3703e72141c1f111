"""Free memory, and errors of running out of it."""

from __future__ import annotations

import os

import torch

# Messages of CUDA and Triton, cuBLAS, and PyTorch's CPU allocator, which have no exception class for it.
_WORDS = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error, its cause or its context means that memory ran out.

    The context counts because ending a graph's capture after such an error raises another one.
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes a cache can take: free memory of a GPU, all memory of a CPU; None if unknown."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
