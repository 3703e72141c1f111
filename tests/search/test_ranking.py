"""Ranking by restoring one layer at a time; training is replaced by a function whose KL is known for each layer."""

import json
from functools import partial

import pytest

from jetlit.errors import UserError
from jetlit.results import Result
from jetlit.search.ranking import RANKED_BY, rank_layers
from jetlit.search.sharing import evaluate_candidates

KL = [0.5, 0.2, 0.9, 0.2, 0.4]


@pytest.fixture
def trained():
    asked = []

    def train(folder):
        layers = json.loads((folder / "architecture.json").read_text())["layer_types"]
        (folder / "model").mkdir()
        asked.append(layers)
        return Result("candidate", {}, {"held_out_kl": KL[layers.index("attn")], "tokens_seen": 100})

    return train, asked


def rank(tmp_path, train, **settings):
    evaluate = partial(
        evaluate_candidates,
        folder=tmp_path / "layers",
        train=train,
        measure=lambda folder: {},
        settings={"seed": 0, **settings},
        metric=RANKED_BY,
    )
    return rank_layers(len(KL), "gla", {}, evaluate)


def test_the_layers_whose_restoration_leaves_least_kl_come_first(tmp_path, trained):
    train, asked = trained
    ranking = rank(tmp_path, train)
    assert ranking.order == (1, 3, 4, 0, 2) and ranking.held_out_kl == tuple(KL) and ranking.tokens == 500
    assert all(layers.count("attn") == 1 and layers.count("gla") == 4 for layers in asked)
    assert ranking.placement(2, "jet").layer_types == ["jet", "attn", "jet", "attn", "jet"]
    assert ranking.placement(0, "jet").layer_types == ["jet"] * 5
    with pytest.raises(UserError, match="budget of 6"):
        ranking.placement(6, "jet")


def test_what_was_ranked_is_not_trained_again(tmp_path, trained):
    train, asked = trained
    first = rank(tmp_path, train)
    assert rank(tmp_path, train) == first and len(asked) == len(KL)
    rank(tmp_path, train, seed=1)
    assert len(asked) == 2 * len(KL)
