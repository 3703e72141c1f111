"""Choose which implementation of an operator runs, and say why one cannot."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Literal

import torch

Backend = Literal["auto", "triton", "torch"]

logger = logging.getLogger("jetlit_kernels")

# Both are read once: Triton itself decides whether a kernel is interpreted when the kernel is defined.
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_announced: set[str] = set()

LARGEST_KEY = 256  # the widest K of the recurrences' kernels


def why_not_triton(tensor: torch.Tensor) -> str | None:
    """Return why the Triton kernels cannot run on `tensor`, or None if they can."""
    if not _TRITON_INSTALLED:
        return "Triton is not installed; install it with `pip install triton`"
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the Triton kernels take float32, bfloat16 or float16, not {tensor.dtype}"
    if not tensor.is_cuda and not _INTERPRETED:
        return (
            f"the tensors are on {tensor.device.type}, and Triton needs a CUDA device "
            "(or TRITON_INTERPRET=1, set before Python starts, to interpret the kernels slowly on a CPU)"
        )
    return None


def resolve_backend(backend: str, tensor: torch.Tensor) -> Literal["triton", "torch"]:
    """Resolve a `backend` argument for an operator whose main input is `tensor`.

    Args:
        backend: "auto" picks Triton for CUDA tensors and plain PyTorch elsewhere; "triton" and "torch" insist.
        tensor: a representative input; its device and dtype decide.

    Returns:
        "triton" or "torch".

    Raises:
        ValueError: the name is unknown, or Triton was asked for and cannot run; the message says why.
    """
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if tensor.is_cuda and why_not_triton(tensor) is None else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "triton" or "torch", not {backend!r}.')
    reason = why_not_triton(tensor)
    if reason is not None:
        raise ValueError(f'backend="triton" cannot run: {reason}; or pass backend="torch".')
    return "triton"


def announce(operator: str, implementation: str) -> None:
    """Log once per process which implementation serves an operator."""
    if torch.compiler.is_compiling():
        return
    line = f"{operator}: {implementation}"
    if line not in _announced:
        _announced.add(line)
        logger.info(line)


def runs_on_triton(operator: str, q: torch.Tensor, backend: str) -> bool:
    """Return whether a recurrence on q [B, T, H, K] runs on the Triton kernels, and log the choice once.

    Raises:
        ValueError: the backend is unknown, or it is "triton" and cannot run; the message says why.
    """
    if resolve_backend(backend, q) == "torch":
        announce(operator, f"plain PyTorch on {q.device.type}")
        return False
    if q.shape[-1] <= LARGEST_KEY and q.shape[1] > 0:
        announce(operator, "Triton kernels")
        return True
    reason = f"the Triton kernels hold keys of 1 to {LARGEST_KEY} columns and at least one token, not {tuple(q.shape)}"
    if backend == "triton":
        raise ValueError(f'backend="triton" cannot run: {reason}; pass backend="torch".')
    announce(operator, f"plain PyTorch, since {reason}")
    return False
