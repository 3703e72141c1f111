"""A placement search shared by processes equals one process' own."""

import multiprocessing
import os
from pathlib import Path

import torch

from jetlit.search.evaluation import SubnetEvaluator
from jetlit.search.placement import search_placement
from jetlit.search.sharing import SharedEvaluator
from tests.search.conftest import LAYERS
from tests.search.test_evaluation import candidates

SEARCH = {"linear": "gla", "budget": 2, "width": 3, "curve_budgets": (1, 2)}


class Logged:
    """Notes which process scored what."""

    def __init__(self, evaluator: SubnetEvaluator, log: Path) -> None:
        self.evaluator, self.log = evaluator, log
        self.counts, self.passes = evaluator.counts, evaluator.passes

    def __call__(self, wanted):
        with open(self.log, "a") as log:
            log.writelines(f"{os.getpid()} {'/'.join(choices)}\n" for choices in wanted)
        return self.evaluator(wanted)


def search(supernet, tasks, folder: Path, results) -> None:
    torch.set_num_threads(1)
    evaluator = SharedEvaluator(Logged(SubnetEvaluator(supernet, tasks), folder / "log"), folder, {"tasks": 2}, 2)
    weights = {task.name: 1.0 for task in tasks}
    results.put((search_placement(evaluator, LAYERS, weights=weights, **SEARCH).as_dict(), vars(evaluator.counts)))


def test_processes_share_the_candidates_and_agree_with_one_alone(supernet, tasks, tmp_path: Path) -> None:
    alone = SubnetEvaluator(supernet, tasks)
    expected = search_placement(alone, LAYERS, weights={task.name: 1.0 for task in tasks}, **SEARCH).as_dict()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=search, args=(supernet, tasks, tmp_path, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for outcome, counts in found:
        assert outcome == expected
        assert counts == found[0][1] and counts["naive"] == alone.counts.naive
        assert counts["done"] >= alone.counts.done
    scored = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len({choices for _, choices in scored}) == len(scored)  # nothing twice
    assert len({process for process, _ in scored}) == 2


def test_a_share_is_never_empty_and_scores_are_those_of_one_process(supernet, tasks, tmp_path: Path) -> None:
    wanted = candidates(5)
    shared = SharedEvaluator(SubnetEvaluator(supernet, tasks), tmp_path, {}, workers=7)
    alone = SubnetEvaluator(supernet, tasks)(wanted)
    assert shared(wanted[:2]) + shared(wanted) == alone[:2] + alone
