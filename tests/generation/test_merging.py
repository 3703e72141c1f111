"""Merged projections: one place in memory, and a model that is none the worse for it."""

import copy

import pytest
import torch
from torch import nn

from jetlit.blocks.base import LinearMixer
from jetlit.errors import UserError
from jetlit.generation import GenerationEngine
from jetlit.generation.cache import active_mixers
from jetlit.generation.merging import merge_linears
from jetlit.models import JetNemotronForCausalLM, SuperNetwork
from tests.models.small import HYBRIDS, prompts, small_model


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_become_views_of_the_merged_weight(bias):
    linears = [nn.Linear(6, outputs, bias=bias) for outputs in (4, 1, 3)]
    before = [linear.weight.detach().clone() for linear in linears]
    weight, merged_bias = merge_linears(linears)
    assert torch.equal(weight, torch.cat(before))
    assert (merged_bias is None) == (not bias)
    linears[1].weight.data.fill_(7.0)
    assert (weight[4] == 7).all() and (weight[:4] == before[0]).all()
    again, _ = merge_linears(linears)
    assert again.data_ptr() == weight.data_ptr() and torch.equal(again, weight)


def test_a_layer_that_is_more_than_linear_is_refused():
    class Adapter(nn.Linear):
        pass

    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    for layer in (Adapter(2, 2), hooked):
        with pytest.raises(UserError, match="use model.generate"):
            merge_linears([nn.Linear(2, 2), layer])


@pytest.mark.parametrize("name", ["lm_head", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"])
def test_an_engine_refuses_what_its_steps_would_leave_out(name):
    model = small_model(["jet", "attn"])
    model.get_submodule(name).register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="remove hooks"):
        GenerationEngine(model, 2, 40).prefill(prompts())


def test_an_engine_leaves_the_model_as_it_was(tmp_path):
    model = small_model(HYBRIDS["hybrid"])
    untouched = copy.deepcopy(model)
    GenerationEngine(model, 2, 40).generate(prompts(), 3)
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), untouched.state_dict().values()))
    model.save_pretrained(tmp_path)
    loaded = JetNemotronForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), untouched.state_dict().values()))


def test_biases_of_which_some_are_missing_merge_once_and_follow_changes():
    torch.manual_seed(0)
    linears = [nn.Linear(6, outputs, bias=bias) for outputs, bias in ((4, True), (1, False), (3, True), (2, False))]
    before = [linear.bias.clone() for linear in linears[::2]]
    _, bias = merge_linears(linears)
    assert torch.equal(bias, torch.cat([before[0], torch.zeros(1), before[1], torch.zeros(2)]))
    with torch.no_grad():
        linears[2].bias += 1
    assert torch.equal(bias[5:8], before[1] + 1)
    assert merge_linears(linears)[1].data_ptr() == bias.data_ptr()


def test_weights_exist_once():
    model = small_model(HYBRIDS["hybrid"])
    engine = GenerationEngine(model, 2, 40)
    engine.prefill(prompts())
    owned = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    # A block whose queries have a bias and whose gates have none keeps zeros for these.
    zeros = sum(
        layer.out_features * layer.weight.itemsize
        for mixer in active_mixers(model)
        if isinstance(mixer, LinearMixer) and any(layer.bias is not None for layer in mixer.step_inputs())
        for layer in mixer.step_inputs()
        if layer.bias is None
    )
    assert sum(owned.values()) == sum(p.nbytes for p in model.parameters()) + zeros
    assert all(layer.mlp.weight.untyped_storage().data_ptr() in owned for layer in engine._layers)


def test_a_trained_model_is_what_the_engine_then_runs():
    """Training after an engine was made goes on as without one, and the engine follows the new weights."""
    model, ids = small_model(HYBRIDS["hybrid"]), prompts()
    apart = copy.deepcopy(model)
    engine = GenerationEngine(model, 2, 40)
    engine.generate(ids, 2)
    for trained in (model, apart):
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
        for _ in range(2):
            trained(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(model.state_dict(), apart.state_dict(), atol=1e-5, rtol=1e-4)
    expected = apart.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert torch.equal(engine.generate(ids, 10), expected)


def test_a_super_network_can_be_saved_after_it_generated(tmp_path):
    supernet = SuperNetwork(small_model(["attn"] * 3), ("gla",))
    GenerationEngine(supernet, 2, 40).generate(prompts(), 2)
    supernet.save_pretrained(tmp_path)
    loaded = SuperNetwork.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), supernet.state_dict().values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"hidden_act": "relu", "mlp_bias": True},
        {"efficient_attention_config": {"jet": {"qkv_bias": True}}},
    ],
)
def test_what_has_no_step_of_its_own_runs_as_the_model_has_it(changes):
    model, ids = small_model(["attn", "jet"], **changes), prompts()
    expected = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(GenerationEngine(model, 2, 40, prefill_chunk=7).generate(ids, 8), expected)


def test_a_model_made_in_inference_mode_runs():
    with torch.inference_mode():
        model = small_model(["jet", "attn", "jet"])
        ids = torch.arange(2 * 21).view(2, 21) % 20
        engine = GenerationEngine(model, 2, 40, prefill_chunk=8)
        first = engine.prefill(ids)
        torch.testing.assert_close(first, model(ids).logits[:, -1])
