"""Launches that overlap the end of the kernel before them: programmatic dependent launch, from Hopper on.

A kernel launched with `overlapped` may begin while the one before it in its stream still runs. It calls
`wait_for_inputs` before it reads or writes anything that another kernel writes or reads. That wait ends with the kernel
before, which has itself waited for the one before it, so nothing older is left running either. Before it a kernel may
only prefetch memory, which changes no result.
"""

import functools

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda

# Bytes that one launch prefetches into the L2 cache: what 3 TB/s deliver while one kernel ends and the next
# begins. Much more would evict what is still needed.
AHEAD = 16 * 2**20
LINE = 128  # bytes of a line of that cache; less is not worth asking for


def overlapped(tensor: torch.Tensor) -> dict[str, bool]:
    """Return a launch's settings on a tensor's device: `OVERLAP`, and what makes Triton launch the kernel early."""
    possible = tensor.is_cuda and _possible(tensor.device)
    return {"OVERLAP": True, "launch_pdl": True} if possible else {"OVERLAP": False}


@functools.cache
def _possible(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Wait for the kernel before; the next one may begin once every program of this one has come here."""
    if OVERLAP:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


@triton.jit
def bring_nearer(first, rows, stride, BYTES: tl.constexpr):
    """Ask for the first BYTES of some rows, at most one a thread, to be brought into the L2 cache.

    `first` is a pointer, `stride` the bytes from row to row; the address, the stride and BYTES are multiples of 16.
    """
    tl.inline_asm_elementwise(
        """
        {
            .reg .pred mine;
            .reg .b32 thread;
            .reg .b64 address;
            mov.u32 thread, %tid.x;
            setp.lt.u32 mine, thread, $2;
            mad.wide.u32 address, thread, $3, $1;
            @mine cp.async.bulk.prefetch.L2.global [address], $4;
            mov.u32 $0, 0;
        }
        """,
        "=r,l,r,r,r",
        [first.to(tl.int64), rows, stride, BYTES],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
