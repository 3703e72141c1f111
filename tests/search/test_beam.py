import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.errors import UserError
from jetlit.models.architecture import uniform_layers
from jetlit.search.beam import beam_search, place
from tests.search.objectives import additive, exhaustive, interacting


@given(
    gains=st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8),
    data=st.data(),
)
@settings(max_examples=60)
def test_width_one_is_optimal_when_layers_do_not_interact(gains: list[float], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, len(gains)))
    found = beam_search(additive(gains), ("gla",) * len(gains), "attn", budget, width=1)
    for size, placement in enumerate(found):
        assert len(placement.layers) == size
        assert placement.value == sum(sorted(gains, reverse=True)[:size])


@pytest.mark.parametrize("seed", range(5))
def test_wide_beam_equals_exhaustive_search_on_interacting_layers(seed: int) -> None:
    layers, budget = 7, 4
    objective = interacting(layers, seed)
    found = beam_search(objective, ("gla",) * layers, "attn", budget, width=math.comb(layers, budget - 1))
    assert [placement.layers for placement in found] == [
        exhaustive(objective, layers, size) for size in range(budget + 1)
    ]


def test_a_pair_that_only_helps_together_needs_a_wider_beam() -> None:
    def objective(candidates: list[tuple[str, ...]]) -> list[float]:
        return [
            10.0 if c[1] == c[4] == "attn" else 0.1 * (c[0] == "attn") + 0.01 * (c[1] == "attn") for c in candidates
        ]

    base = ("gla",) * 5
    assert beam_search(objective, base, "attn", 2, width=1)[2].layers == (0, 1)
    assert beam_search(objective, base, "attn", 2, width=2)[2].layers == (1, 4)


def test_equal_values_are_ordered_by_the_layers() -> None:
    found = beam_search(additive([1.0] * 6), ("gla",) * 6, "attn", 3, width=4)
    assert [placement.layers for placement in found] == [(), (0,), (0, 1), (0, 1, 2)]


@given(layers=st.integers(1, 40), data=st.data())
def test_uniform_layers_are_distinct_and_as_many_as_asked(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, layers))
    found = uniform_layers(count, layers)
    assert len(set(found)) == count and all(0 <= layer < layers for layer in found) and list(found) == sorted(found)
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("budget", [-1, 4])
def test_a_budget_the_model_cannot_meet_is_refused(budget: int) -> None:
    with pytest.raises(UserError, match="set it between 0 and 3"):
        beam_search(additive([1.0] * 3), ("gla",) * 3, "attn", budget, width=2)


def test_place_leaves_other_layers_alone() -> None:
    assert place(("gla", "swa", "gla"), (0,), "attn") == ("attn", "swa", "gla")
