"""Launches that overlap the end of the kernel before them: programmatic dependent launch, from Hopper on.

A kernel launched with `overlapped` may begin while the one before it in its stream still runs. It calls
`wait_for_inputs` before it reads or writes anything that another kernel writes or reads. That wait ends with the kernel
before, which has itself waited for the one before it, so nothing older is left running either.
"""

import functools

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda


def overlapped(tensor: torch.Tensor) -> dict[str, bool]:
    """Settings of a launch on a tensor's device: the kernel's `OVERLAP`, and what makes Triton launch it early."""
    possible = tensor.is_cuda and _possible(tensor.device)
    return {"OVERLAP": True, "launch_pdl": True} if possible else {"OVERLAP": False}


@functools.cache
def _possible(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Waits for the kernel before; the next one may begin once every program of this one has come here."""
    if OVERLAP:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()
