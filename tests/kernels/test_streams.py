"""The order of launches in turns; tests/gpu/test_streams.py has what the streams make of it."""

import pytest
import torch
from jetlit_kernels.streams import in_turns

CPU = torch.device("cpu")


def order(turns: int, sets: int) -> list[str]:
    calls: list[str] = []
    in_turns(lambda n: calls.append(f"lead {n}"), lambda n: calls.append(f"follow {n}"), turns, sets, CPU)
    return calls


def test_with_one_set_a_turn_ends_before_the_next_begins():
    assert order(3, sets=1) == ["lead 0", "follow 0", "lead 1", "follow 1", "lead 2", "follow 2"]


def test_with_two_sets_the_next_turn_is_led_before_this_one_is_followed():
    assert order(3, sets=2) == ["lead 0", "lead 1", "follow 0", "lead 2", "follow 1", "follow 2"]
    assert order(1, sets=2) == ["lead 0", "follow 0"]


@pytest.mark.parametrize("turns", [2, 5])
def test_a_set_is_followed_before_it_is_led_again(turns):
    sets, seen = [None, None], []

    def lead(turn):
        assert sets[turn % 2] is None
        sets[turn % 2] = turn

    def follow(turn):
        seen.append(sets[turn % 2])
        sets[turn % 2] = None

    in_turns(lead, follow, turns, 2, CPU)
    assert seen == list(range(turns))


def test_errors_reach_the_caller():
    def fail(turn):
        raise MemoryError(turn)

    for lead, follow in ((fail, print), (lambda n: None, fail)):
        with pytest.raises(MemoryError):
            in_turns(lead, follow, 3, 2, CPU)
