import itertools
import json

import pytest

from jetlit.errors import UserError
from jetlit.models import Architecture, check_budget
from tests.models.small import small_config


def test_saving_and_loading_keep_it_and_other_keys_are_ignored(tmp_path):
    architecture = Architecture(["attn", "gla", "swa"], {"swa": {"window_size": 7}, "gla": {"num_heads": 3}})
    path = tmp_path / "new" / "architecture.json"
    architecture.save(path)
    assert Architecture.load(path) == architecture
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": [1, 2]}))
    assert Architecture.load(path) == architecture


def test_choosing_a_block_changes_the_linear_layers_only():
    placed = Architecture(["attn", "gla", "swa", "gla"], {"swa": {"window_size": 7}, "gla": {"num_heads": 3}})
    chosen = placed.with_block("jet", {"expand_v": 2.0})
    assert chosen.layer_types == ["attn", "jet", "swa", "jet"]
    assert chosen.block_configs == {"swa": {"window_size": 7}, "jet": {"expand_v": 2.0}}
    assert placed.layer_types[1] == "gla"


@pytest.mark.parametrize(("layers", "full"), [(28, 0), (28, 2), (28, 4), (7, 3), (5, 5), (36, 1)])
def test_uniform_spreads_the_full_layers_evenly(layers, full):
    architecture = Architecture.uniform(layers, full, "gla")
    places = [index for index, name in enumerate(architecture.layer_types) if name == "attn"]
    assert len(places) == full and len(architecture.layer_types) == layers
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("budget", [-1, 29])
def test_a_budget_that_does_not_fit_is_refused(budget):
    with pytest.raises(UserError, match=f"budget of {budget}"):
        check_budget(budget, 28)
    with pytest.raises(UserError, match="set it between 0 and 28"):
        Architecture.uniform(28, budget, "gla")


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (Architecture(["attn", "lga", "attn"]), "'lga'"),
        (Architecture(["attn", "gla"]), "2 layers and the model 3"),
        (Architecture(["attn", "gla", "attn"], {"gla": {"num_headz": 3}}), "'num_headz'"),
        (Architecture(["attn", "swa", "attn"]), "window"),
    ],
)
def test_what_does_not_fit_the_model_is_one_sentence(architecture, sentence):
    with pytest.raises(UserError, match=sentence):
        architecture.validate(small_config(["attn"] * 3))


@pytest.mark.parametrize("content", ["[]", '{"layer_types": "attn"}', '{"layer_types": [1]}', "{"])
def test_a_file_that_is_no_architecture_is_refused(tmp_path, content):
    path = tmp_path / "architecture.json"
    path.write_text(content)
    with pytest.raises(UserError, match="architecture"):
        Architecture.load(path)
    with pytest.raises(UserError, match="does not exist"):
        Architecture.load(tmp_path / "nothing.json")
