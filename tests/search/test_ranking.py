"""Ranking by restoring one layer at a time; training is replaced by a function whose KL is known for each layer."""

import json

import pytest

from jetlit.errors import UserError
from jetlit.results import metric
from jetlit.search.ranking import rank_layers

KL = [0.5, 0.2, 0.9, 0.2, 0.4]


@pytest.fixture
def trained(tmp_path):
    asked = []

    def train(architecture, folder):
        layers = json.loads(architecture.read_text())["layer_types"]
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        asked.append(layers)
        return {"held_out_kl": metric(KL[layers.index("attn")], "nats/token"), "tokens_seen": metric(100, "tokens")}

    return train, asked


def rank(tmp_path, train, **settings):
    return rank_layers(len(KL), "gla", tmp_path / "ranking", train, {"seed": 0, **settings}, {})


def test_the_layers_whose_restoration_leaves_least_kl_come_first(tmp_path, trained):
    train, asked = trained
    ranking = rank(tmp_path, train)
    assert ranking.order == (1, 3, 4, 0, 2) and ranking.held_out_kl == tuple(KL) and ranking.tokens == 500
    assert all(layers.count("attn") == 1 and layers.count("gla") == 4 for layers in asked)
    assert ranking.placement(2, "jet").layer_types == ["jet", "attn", "jet", "attn", "jet"]
    assert ranking.placement(0, "jet").layer_types == ["jet"] * 5
    with pytest.raises(UserError, match="budget of 6"):
        ranking.placement(6, "jet")


def test_what_was_ranked_is_not_trained_again_and_its_weights_are_gone(tmp_path, trained):
    train, asked = trained
    first = rank(tmp_path, train)
    assert rank(tmp_path, train) == first and len(asked) == len(KL)
    assert not list((tmp_path / "ranking").rglob("*.safetensors"))
    rank(tmp_path, train, seed=1)
    assert len(asked) == 2 * len(KL)
