import itertools

import pytest
import torch

from jetlit.search.evaluation import SubnetEvaluator
from jetlit.search.placement import search_placement
from jetlit.tasks import evaluate_task
from tests.search.conftest import LAYERS


def candidates(count: int) -> list[tuple[str, ...]]:
    every = list(itertools.product(("attn", "gla", "swa"), repeat=LAYERS))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    return [every[index] for index in order[:count]]


@pytest.mark.parametrize("stored_bytes", [0, 20_000, 2**30])
def test_scores_equal_those_of_each_subnetwork_alone(supernet, tasks, stored_bytes: int) -> None:
    evaluator = SubnetEvaluator(supernet, tasks, stored_bytes)
    wanted = candidates(12)
    found = evaluator(wanted[:5]) + evaluator(wanted[3:])
    for choices, scores in zip(wanted[:5] + wanted[3:], found, strict=True):
        supernet.set_active_subnet(choices)
        for task in tasks:
            assert scores[task.name] == pytest.approx(evaluate_task(supernet, task).objective, abs=1e-5)
    assert len({scores["multiple_choice"] for scores in found}) > 5


def test_known_scores_cost_nothing_and_counts_are_of_layers_and_batches(supernet, tasks) -> None:
    evaluator = SubnetEvaluator(supernet, tasks)
    batches = sum(len(task.batches) for task in tasks)
    first, second = ("attn",) * LAYERS, ("attn",) * (LAYERS - 1) + ("gla",)
    evaluator([first, second, first])
    # All layers once, then the one layer in which the second differs.
    assert evaluator.counts.done == batches * (LAYERS + 1)
    assert evaluator.counts.unshared == batches * 2 * LAYERS
    assert evaluator.counts.naive == batches * 3 * LAYERS
    done = evaluator.counts.done
    evaluator([second])
    assert evaluator.counts.done == done


def test_prefixes_are_shared_across_calls_while_there_is_room(supernet, tasks) -> None:
    linear = ("gla",) * LAYERS
    late = ("gla",) * (LAYERS - 1) + ("attn",)
    done = []
    for stored_bytes in (0, 2**30):
        evaluator = SubnetEvaluator(supernet, tasks, stored_bytes)
        evaluator([linear])
        evaluator([late])
        done.append(evaluator.counts.done // sum(len(task.batches) for task in tasks))
    assert done == [2 * LAYERS, LAYERS + 1]


def test_heatmap_and_search_run_at_most_half_the_layers(supernet, tasks) -> None:
    evaluator = SubnetEvaluator(supernet, tasks)
    weights = {task.name: 1.0 for task in tasks}
    search_placement(evaluator, LAYERS, linear="gla", budget=2, width=4, weights=weights, curve_budgets=(1, 2, 3))
    assert 2 * evaluator.counts.done <= evaluator.counts.naive
    # Sharing of prefixes alone, without what is saved by remembering scores.
    assert 1.8 * evaluator.counts.done <= evaluator.counts.unshared
