"""Output projections of new blocks by least squares."""

import numpy as np
import pytest
import torch

from jetlit.blocks import BLOCKS
from jetlit.models import Architecture, SuperNetwork, fit_outputs, hybridize
from jetlit.models.output_fit import RIDGE
from tests.models.small import prompts, small_model

LINEAR = [name for name in BLOCKS if name not in ("attn", "swa")]


def batches(count=4):
    return [prompts(6, 19, seed) for seed in range(count)]


def layer_inputs_and_outputs(model, layer, ids):
    """Return what a layer's mixer reads, what it gives and the states with that, by hooks on a whole forward pass."""
    seen = {}
    mixer = model.model.layers[layer].self_attn
    hooks = [
        mixer.register_forward_hook(lambda _, args, out: seen.update(mixed=out)),
        model.model.layers[layer].register_forward_pre_hook(lambda _, args: seen.update(hidden=args[0])),
        model.model.layers[layer].input_layernorm.register_forward_hook(lambda _, a, out: seen.update(normed=out)),
    ]
    with torch.no_grad():
        model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen["normed"], seen["mixed"], seen["hidden"] + seen["mixed"]


def features(block, x):
    seen = []
    hook = block.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        block(x)
    hook.remove()
    return seen[0]


def error(block, x, mixed):
    with torch.no_grad():
        return float((block(x) - mixed).square().sum() / mixed.square().sum())


@pytest.mark.parametrize("name", ["gla", "jet", "mamba2"])
def test_it_solves_the_weighed_ridge_regression_of_each_layer(name):
    teacher = small_model(["attn"] * 3)
    hybrid = hybridize(teacher, Architecture([name, "attn", name]))
    fit_outputs(hybrid, teacher.model, batches())
    for layer in (0, 2):
        block = hybrid.model.layers[layer].self_attn
        x, mixed, states = layer_inputs_and_outputs(teacher, layer, torch.cat(batches()))
        root = 1 / states.flatten(0, 1).double().norm(dim=-1, keepdim=True)
        a = (features(block, x).flatten(0, 1).double() * root).numpy()
        b = (mixed.flatten(0, 1).double() * root).numpy()
        # The penalty as additional rows of an ordinary least-squares problem.
        penalty = np.sqrt(RIDGE * (a**2).sum(0).mean()) * np.eye(a.shape[1])
        expected = np.linalg.lstsq(np.vstack((a, penalty)), np.vstack((b, 0 * penalty[:, : b.shape[1]])), rcond=None)[0]
        torch.testing.assert_close(block.o_proj.weight.double(), torch.from_numpy(expected.T), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_held_out_outputs_come_closer_to_attention_and_nothing_else_changes(name):
    # Small weights: attention that is not sharp, as that of most heads of a real model.
    teacher = small_model(["attn"] * 2, attention_bias=name != "jet", initializer_range=0.15)
    hybrid = hybridize(teacher, Architecture([name, "attn"]))
    before = {key: tensor.clone() for key, tensor in hybrid.state_dict().items()}
    block = hybrid.model.layers[0].self_attn
    x, mixed, _ = layer_inputs_and_outputs(teacher, 0, prompts(6, 19, seed=99))
    start = error(block, x, mixed)
    fit_outputs(hybrid, teacher.model, batches(24))
    assert error(block, x, mixed) < 0.98 * min(1, start)  # 1 is the error of no mixer at all
    changed = [key for key, tensor in hybrid.state_dict().items() if not torch.equal(tensor, before[key])]
    assert changed == ["model.layers.0.self_attn.o_proj.weight"]


def test_every_linear_path_of_a_super_network_is_fitted_and_its_attention_kept():
    teacher = small_model(["attn"] * 2)
    network = SuperNetwork(teacher, ["gla", "jet"])
    fit_outputs(network, teacher.model, batches())
    for name in ("gla", "jet"):
        alone = hybridize(teacher, Architecture([name] * 2))
        for layer, own in zip(network.model.layers, alone.model.layers):
            own.self_attn.load_state_dict(layer.self_attn.paths[name].state_dict())
        fitted = [layer.self_attn.o_proj.weight.clone() for layer in alone.model.layers]
        fit_outputs(alone, teacher.model, batches())
        for weight, layer in zip(fitted, alone.model.layers):
            torch.testing.assert_close(weight, layer.self_attn.o_proj.weight)
    network.set_active_subnet(["attn"] * 2)
    with torch.no_grad():
        assert torch.equal(network(prompts()).logits, teacher(prompts()).logits)
