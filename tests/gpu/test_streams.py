"""Launches in turns on two streams, where one or the other is slow, against the same launches in plain order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from jetlit_kernels.streams import in_turns

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TURNS, SIZE = 7, 100_003
CYCLES = 2_000_000  # a millisecond, far longer than any launch


def slow(step: Callable[[int], None]) -> Callable[[int], None]:
    def after_a_pause(turn: int) -> None:
        torch.cuda._sleep(CYCLES)
        step(turn)

    return after_a_pause


class Sums:
    """A chain x ← x / 2 + turn, one value of each turn in each set, of which all are kept."""

    def __init__(self) -> None:
        self.chain = torch.zeros(SIZE, device="cuda")
        self.sets = torch.zeros(2, SIZE, device="cuda")
        self.results = torch.zeros(TURNS, SIZE, device="cuda")

    def lead(self, turn: int) -> None:
        self.chain.mul_(0.5).add_(turn)
        self.sets[turn % 2].copy_(self.chain)

    def follow(self, turn: int) -> None:
        self.results[turn].copy_(self.sets[turn % 2])
        self.sets[turn % 2].fill_(float("nan"))


def expected() -> torch.Tensor:
    values = [0.0]
    for turn in range(1, TURNS):
        values.append(values[-1] / 2 + turn)
    return torch.tensor(values, device="cuda")[:, None].expand(TURNS, SIZE)


def run(sums: Sums, which: str) -> None:
    """Run all turns after a pause of the current stream, which `lead` has to wait for as well."""
    lead, follow = (slow(step) if which == step.__name__ else step for step in (sums.lead, sums.follow))
    torch.cuda._sleep(CYCLES)
    sums.chain.zero_()
    in_turns(lead, follow, TURNS, 2, sums.chain.device)


@pytest.mark.parametrize("which", ["lead", "follow", "neither"])
@pytest.mark.parametrize("default", [True, False])
def test_no_launch_overtakes_what_it_needs(which: str, default: bool) -> None:
    stream = torch.cuda.default_stream() if default else torch.cuda.Stream()
    with torch.cuda.stream(stream):
        sums = Sums()
        sums.chain.fill_(float("nan"))
        run(sums, which)
        results = sums.results.clone()
    torch.cuda.synchronize()
    assert torch.equal(results, expected())


@pytest.mark.parametrize("fails", [False, True])
def test_the_current_stream_waits_for_all(fails: bool) -> None:
    done = torch.zeros(2, device="cuda")

    def lead(turn: int) -> None:
        done[turn].fill_(1)

    def follow(turn: int) -> None:
        if fails:
            raise MemoryError

    with pytest.raises(MemoryError) if fails else nullcontext():
        in_turns(slow(lead), follow, 2, 2, done.device)
    assert torch.equal(done.clone(), torch.ones(2, device="cuda"))


def test_what_leads_runs_beside_what_follows() -> None:
    """Seven pauses on each stream take less than fourteen."""
    pause = slow(lambda turn: None)
    milliseconds = []
    for sets in (1, 2, 1, 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        in_turns(pause, pause, TURNS, sets, torch.device("cuda", torch.cuda.current_device()))
        end.record()
        end.synchronize()
        milliseconds.append(start.elapsed_time(end))
    assert milliseconds[3] < 0.75 * milliseconds[2]


def test_a_cuda_graph_captures_both_streams() -> None:
    sums = Sums()
    run(sums, "neither")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(sums, "follow")
    for _ in range(3):
        sums.results.zero_()
        graph.replay()
        assert torch.equal(sums.results, expected())
