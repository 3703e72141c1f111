"""Launch in turns, the first half of each one turn ahead on its own stream.

A chain of dependent steps leaves much of a GPU idle. Work that only reads its results can fill the gap: the chain
advances while its last results are processed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


@cache
def _stream_ahead(device: torch.device) -> torch.Stream:
    """Return a device's stream for such chains. Its programs go first: the others fill what they leave idle."""
    return torch.get_device_module(device).Stream(priority=-1)


def in_turns(
    lead: Callable[[int], None], follow: Callable[[int], None], turns: int, sets: int, device: torch.device
) -> None:
    """Launch lead(0), follow(0), lead(1), follow(1) and so on, as if one after the other.

    With two sets of memory between them, lead(n) may run beside follow(n - 1), after follow(n - 2) whose set it takes;
    follow(n) must then read nothing that lead(n + 1) writes, nor write what that reads. Whatever the caller allocated
    before may be freed after the call as if one stream had used it, while what `lead` allocates is its own: `follow`
    must not read it. A CUDA graph captures both streams. On a CPU, the calls come in the same order.

    Args:
        lead: launches the first half of a turn; every turn's needs the last one's.
        follow: launches the second half, which needs the first.
        turns: number of turns.
        sets: 1 or 2.
        device: what runs them; the calling thread's current device.
    """
    if sets == 1:
        for turn in range(turns):
            lead(turn)
            follow(turn)
        return
    streams = torch.get_device_module(device)
    current, ahead = streams.current_stream(device), _stream_ahead(device)
    led = []
    try:
        for turn in range(turns + 1):
            if turn < turns:
                ahead.wait_stream(current)  # which was last given follow(turn - 2)
                with streams.stream(ahead):
                    lead(turn)
                led.append(ahead.record_event())
            if turn > 0:
                current.wait_event(led[turn - 1])
                follow(turn - 1)
    finally:
        current.wait_stream(ahead)
