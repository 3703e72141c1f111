import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.errors import UserError
from jetlit.search.placement import CombinedObjective, search_placement

LAYERS = 6


def synthetic_score(candidates: list[tuple[str, ...]]) -> list[dict[str, float]]:
    """Score a placement: retrieval needs layers 1 and 4, multiple choice layer 2 or nearly as well a window there."""
    return [
        {
            "recall": 0.1 + 0.5 * (c[1] == "attn") + 0.3 * (c[4] == "attn"),
            "choice": -2.0
            + 0.8 * (c[2] == "attn")
            + 0.7 * (c[2] == "swa")
            + 0.1 * (c[4] == "attn")
            - 0.2 * (c[3] == "swa"),
        }
        for c in candidates
    ]


def choice_score(candidates: list[tuple[str, ...]]) -> list[dict[str, float]]:
    return [{"choice": row["choice"]} for row in synthetic_score(candidates)]


def search(**changes):
    arguments = {
        "linear": "gla",
        "budget": 2,
        "width": 4,
        "weights": {"recall": 1.0},
        "curve_budgets": (1, 2, 3),
        **changes,
    }
    return search_placement(synthetic_score, LAYERS, **arguments)


def test_finds_the_layers_that_matter_for_the_weighted_task() -> None:
    found = search()
    assert found.full_attention == (1, 4)
    assert found.choices == ("gla", "attn", "gla", "gla", "attn", "gla")
    assert found.scores == pytest.approx({"recall": 0.9, "choice": -1.9})
    assert search(budget=1, weights={"choice": 1.0}).full_attention == (2,)


def test_both_tasks_together_take_the_union_of_their_layers() -> None:
    assert search(budget=3, weights={"recall": 1.0, "choice": 1.0}).full_attention == (1, 2, 4)


def test_no_layer_is_spent_that_does_not_help() -> None:
    assert search(budget=5).full_attention == (1, 4)


def test_heatmap_has_one_full_layer_a_column() -> None:
    heatmap = search().heatmap
    assert heatmap["recall"] == pytest.approx([0.1, 0.6, 0.1, 0.1, 0.4, 0.1])
    assert heatmap["choice"] == pytest.approx([-2.0, -2.0, -1.2, -2.0, -1.9, -2.0])


def test_curve_compares_searched_with_uniform_at_equal_budgets() -> None:
    found = search()
    assert [point.budget for point in found.searched] == [point.budget for point in found.uniform] == [1, 2, 3]
    assert all(s.value >= u.value for s, u in zip(found.searched, found.uniform, strict=True))
    assert found.searched[1].value == pytest.approx(1.0)
    assert found.uniform[0].layers == (3,) and found.uniform[0].value == pytest.approx(0.0)


def test_sliding_windows_go_where_only_multiple_choice_gains() -> None:
    found = search(sliding_window_budget=2, pattern_score=choice_score)
    assert found.full_attention == (1, 4) and found.sliding_window == (2,)
    assert found.choices[2] == "swa" and found.scores["choice"] == pytest.approx(-1.2)


def test_the_choice_states_its_error_and_what_it_cannot_be_told_from() -> None:
    found = search(errors=lambda choices: {"recall": 0.1, "choice": 1.0})
    # Recall gains 0.8 of full attention, of which layer 1 alone gives 0.5.
    assert found.value == pytest.approx(1.0) and found.value_stderr == pytest.approx(0.1 / 0.8)
    assert found.indistinguishable == []
    unsure = search(errors=lambda choices: {"recall": 0.31, "choice": 1.0})
    assert unsure.full_attention == (1, 4)
    assert unsure.indistinguishable == [(0, 1), (1,), (1, 2), (1, 3), (1, 5)]
    both = search(weights={"recall": 3.0, "choice": 1.0}, errors=lambda choices: {"recall": 0.08, "choice": 0.08})
    gap = 0.8 + 0.1 - 0.0  # choice gains 0.8 in layer 2 and 0.1 in layer 4
    assert both.value_stderr == pytest.approx(math.hypot(0.75 * 0.08 / 0.8, 0.25 * 0.08 / gap))
    assert search().value_stderr is None and search().indistinguishable == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 7}, "budget of 7 'attn' layers"),
        ({"curve_budgets": (9,)}, "budget of 9"),
        ({"budget": 2, "sliding_window_budget": 5}, "budget of 5 'swa' layers"),
        ({"weights": {"mmlu": 1.0}}, "no task 'mmlu'"),
        ({"weights": {}}, "not all zero"),
        ({"width": 0}, "at least one candidate"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(**changes)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.floats(-3, 3))
@settings(max_examples=50)
def test_normalized_objective_is_zero_and_one_at_its_references(ends: list[float], value: float) -> None:
    linear, full = ends
    table = {("gla",): linear, ("attn",): full, ("swa",): value}
    objective = CombinedObjective(lambda cs: [{"t": table[c]} for c in cs], ("gla",), ("attn",), {"t": 3.0})
    low, middle, high = objective([("gla",), ("swa",), ("attn",)])
    assert low == 0.0
    assert abs(abs(high) - min(1.0, abs(full - linear) / 0.01)) < 1e-9
    assert (middle > low) == (value > linear) or abs(value - linear) < 1e-12
