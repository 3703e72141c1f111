from collections import Counter

import pytest
import torch

from jetlit.errors import UserError
from jetlit.models import Architecture, JetNemotronForCausalLM, SuperNetwork, hybridize
from tests.models.small import prompts, small_model

LAYERS = 4


@pytest.fixture
def network():
    teacher = small_model(["attn"] * LAYERS)
    return SuperNetwork(teacher, ("gla", "swa"), {"gla": {"head_dim": 4}, "swa": {"window_size": 5}}), teacher


@torch.no_grad()
def test_the_full_path_is_the_teacher(network):
    supernet, teacher = network
    assert supernet.get_active_subnet() == ["attn"] * LAYERS
    assert torch.equal(supernet(prompts()).logits, teacher(prompts()).logits)


@pytest.mark.parametrize("path", [["gla"] * 4, ["attn", "gla", "swa", "gla"], ["swa", "attn", "gla", "attn"]])
@torch.no_grad()
def test_an_extracted_path_equals_the_active_one_and_is_a_model_of_its_own(network, path):
    supernet, _ = network
    supernet.set_active_subnet(path)
    expected = supernet(prompts()).logits
    model = supernet.extract(path)
    assert type(model) is JetNemotronForCausalLM and model.config.layer_types == path
    assert torch.equal(model(prompts()).logits, expected)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(supernet(prompts()).logits, expected)


@torch.no_grad()
def test_a_path_equals_hybridising_the_teacher_the_same_way(network):
    supernet, teacher = network
    path = ["attn", "gla", "swa", "attn"]
    supernet.set_active_subnet(path)
    torch.manual_seed(5)
    hybrid = hybridize(teacher, Architecture(path, {"gla": {"head_dim": 4}, "swa": {"window_size": 5}}))
    # GLA's gate is fresh, so it is taken over before comparing.
    hybrid.model.layers[1].self_attn.load_state_dict(supernet.model.layers[1].self_attn.paths["gla"].state_dict())
    assert torch.equal(hybrid(prompts()).logits, supernet(prompts()).logits)


@torch.no_grad()
def test_layers_walked_one_by_one_follow_the_switch(network):
    supernet, _ = network
    hidden = supernet.model.embed_tokens(prompts())
    inputs = supernet.model.layer_inputs(hidden)
    outputs = {}
    for name in ("attn", "gla", "swa", "attn"):
        supernet.set_active_subnet([name] * LAYERS)
        outputs.setdefault(name, []).append(supernet.model.layers[0](hidden, inputs))
    assert torch.equal(*outputs["attn"])
    assert not torch.equal(outputs["attn"][0], outputs["gla"][0])


def test_sampling_is_uniform_repeatable_and_independent_of_the_global_state(network):
    supernet, _ = network
    first = [supernet.sample_active_subnet(torch.Generator().manual_seed(s)) for s in range(200)]
    torch.manual_seed(99)
    again = [supernet.sample_active_subnet(torch.Generator().manual_seed(s)) for s in range(200)]
    assert first == again and supernet.get_active_subnet() == again[-1]
    for layer in range(LAYERS):
        counts = Counter(path[layer] for path in first)
        assert set(counts) == {"attn", "gla", "swa"} and min(counts.values()) > 40


def test_even_budgets_draw_every_number_of_full_layers_alike(network):
    supernet, _ = network
    paths = [supernet.sample_active_subnet(torch.Generator().manual_seed(s), even_budgets=True) for s in range(500)]
    budgets = Counter(path.count("attn") for path in paths)
    assert set(budgets) == set(range(LAYERS + 1)) and min(budgets.values()) > 70  # 100 each on average
    others = Counter(name for path in paths for name in path if name != "attn")
    assert others["gla"] == pytest.approx(others["swa"], rel=0.2)


def test_saving_and_loading_is_exact(network, tmp_path):
    supernet, _ = network
    supernet.save_pretrained(tmp_path)
    loaded = SuperNetwork.from_pretrained(tmp_path).eval()
    assert loaded.choices_per_layer == [("attn", "gla", "swa")] * LAYERS
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in supernet.state_dict().items())
    path = ["swa", "gla", "attn", "gla"]
    with torch.no_grad():
        for model in (supernet, loaded):
            model.set_active_subnet(path)
        assert torch.equal(supernet(prompts()).logits, loaded(prompts()).logits)


def test_only_the_active_path_gets_gradients(network):
    supernet, _ = network
    supernet.train().set_active_subnet(["gla", "attn", "swa", "gla"])
    supernet(prompts(), labels=prompts()).loss.backward()
    paths = supernet.model.layers[0].self_attn.paths
    assert paths["gla"].q_proj.weight.grad is not None
    assert paths["attn"].q_proj.weight.grad is None


@torch.no_grad()
def test_the_active_path_generates(network):
    supernet, _ = network
    path = ["gla", "attn", "swa", "gla"]
    supernet.set_active_subnet(path)
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        supernet.causal_lm.generate(prompts(), **greedy), supernet.extract(path).generate(prompts(), **greedy)
    )


def test_bad_requests_are_one_sentence(network, tmp_path):
    supernet, teacher = network
    with pytest.raises(UserError, match="does not offer 'jet'"):
        supernet.set_active_subnet(["jet"] * LAYERS)
    with pytest.raises(UserError, match="4 layers, not 3"):
        supernet.extract(["attn"] * 3)
    with pytest.raises(UserError, match="unknown block"):
        SuperNetwork(teacher, ("glah",))
    with pytest.raises(UserError, match="window"):
        SuperNetwork(teacher, ("swa",))
    with pytest.raises(UserError, match="at least one alternative"):
        SuperNetwork(teacher, ())
    with pytest.raises(UserError, match="does not exist"):
        SuperNetwork.from_pretrained(tmp_path)


def test_a_damaged_file_is_one_sentence(network, tmp_path):
    network[0].save_pretrained(tmp_path)
    weights = tmp_path / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="train the super network again"):
        SuperNetwork.from_pretrained(tmp_path)


def test_attention_can_be_left_out_of_training(network):
    network[0].freeze_attention()
    parameters = [(name.split("."), p) for name, p in network[0].named_parameters() if ".paths." in name]
    trained = {parts[parts.index("paths") + 1] for parts, parameter in parameters if parameter.requires_grad}
    assert trained == {"gla", "swa"}
