"""Cut long rows of few heads into segments for the gated delta rule's forward pass, and join them.

A scan is one chain of dependent chunks per head and block of V, which for few heads leaves most of a GPU idle. But the
recurrence is linear in the state: over a segment, S becomes M S + B. So three launches take the place of one:

1. `scan_kernel` finds M and B of all segments but the last, in parallel: M from the identity, B from zeros;
2. `join_kernel` finds the state at every segment's start, by one product of M and a state a segment;
3. `scan_kernel` scans all segments in parallel, each from its state.

A row takes as long as two of its n segments, 2 / n of the whole, if the GPU has room for the programs of all of them.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from jetlit_kernels.sizes import cdiv, power_of_two

FEWEST = 3  # segments: two would take as long as one
SHORTEST = 32  # chunks of a segment: less would not pay for two more launches
WARPS = 8  # on a multiprocessor at once: its registers hold no more at 255 a thread
COLUMNS, STEP = 16, 32  # of V a program of `join_kernel`, and of M a step of its products


@cache
def _multiprocessors(device: torch.device) -> int:
    """Return a device's number of multiprocessors; without a GPU an H100's, so that the interpreter takes its paths."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def slots(device: torch.device, warps: int) -> int:
    """Return how many programs of a scan run at once on a device."""
    return _multiprocessors(device) * WARPS // warps


def segments(programs: int, room: int, chunks: int) -> int:
    """Choose the number of segments of a row.

    Args:
        programs: programs of a scan over whole rows.
        room: programs that run at once (`slots`).
        chunks: chunks of a row.

    Returns:
        As many as run at once and are long enough to pay; 1 for short rows, and where whole rows leave little idle.
    """
    count = min(room // programs, chunks // SHORTEST)
    return count if count >= FEWEST else 1


def join(maps: torch.Tensor, checkpoints: torch.Tensor, stride: int) -> None:
    """Write the state after every segment, all but a row's last, into the checkpoints.

    Args:
        maps: [segments - 1, N · H, K, V + K] float32: B and M of every segment but the row's last. The first one's B
            includes the initial state; its M is not read.
        checkpoints: [.., N · H, K, V] float32; the state after segment i becomes number (i + 1) · stride - 1.
        stride: checkpoints a segment.
    """
    count, states, K, width = maps.shape
    V = width - K
    join_kernel[(cdiv(V, COLUMNS), states)](
        maps,
        checkpoints,
        count,
        stride,
        states,
        K=K,
        V=V,
        BK=max(STEP, power_of_two(K)),
        BV=COLUMNS,
        STEP=STEP,
        num_warps=4,
        num_stages=3,
    )


@triton.jit(do_not_specialize=["count", "stride", "states"])
def join_kernel(
    maps, checkpoints, count, stride, states,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Do what `join` says, for one block of V of a state. Grid: (blocks of V, N · H).

    Products are float32's own, for inputs of every dtype: they are few. A state is read where it was stored, STEP rows
    at a time, as registers do not hold it beside M.
    """
    n = tl.program_id(1)
    row = tl.arange(0, BK)
    column = tl.program_id(0) * BV + tl.arange(0, BV)
    inside = (row < K)[:, None] & (column < V)[None, :]
    of_write = row[:, None] * (V + K) + column[None, :]
    of_state = row[:, None] * V + column[None, :]

    state = tl.load(maps + n.to(tl.int64) * K * (V + K) + of_write, mask=inside, other=0.0)
    place = checkpoints + ((stride - 1) * states + n).to(tl.int64) * K * V
    tl.store(place + of_state, state, mask=inside)
    for segment in range(1, count):
        tl.debug_barrier()  # what the program's other threads have stored is read now
        origin = maps + (segment * states + n).to(tl.int64) * K * (V + K)
        state = tl.load(origin + of_write, mask=inside, other=0.0)
        for step in range(0, K, STEP):
            inner = step + tl.arange(0, STEP)
            of_factor = row[:, None] * (V + K) + V + inner[None, :]
            of_start = inner[:, None] * V + column[None, :]
            factor = tl.load(origin + of_factor, mask=(row < K)[:, None] & (inner < K)[None, :], other=0.0)
            start = tl.load(place + of_start, mask=(inner < K)[:, None] & (column < V)[None, :], other=0.0)
            state = tl.dot(factor, start, state, input_precision="ieee")
        place = checkpoints + (((segment + 1) * stride - 1) * states + n).to(tl.int64) * K * V
        tl.store(place + of_state, state, mask=inside)
