"""Parameter groups and the learning-rate schedule."""

import copy
import math

import pytest
import torch
from torch import nn

from jetlit.blocks import build_block
from jetlit.errors import UserError
from jetlit.training import WarmupCosine
from jetlit.training.optimizer import parameter_groups


def rates(steps, **settings):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, **settings)
    schedule.end_at(steps)
    found = []
    for _ in range(steps + 2):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_then_half_a_cosine():
    found = rates(10, warmup_steps=4, final_fraction=0.1)
    assert found[:4] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    cosine = [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(7)]
    assert found[4:11] == pytest.approx(cosine)
    assert found[11] == pytest.approx(0.2)  # stays there


def test_a_total_of_its_own_wins_over_the_fits():
    assert rates(4, total_steps=8, final_fraction=0.0)[4] == pytest.approx(1.0)


def test_a_restored_schedule_goes_on():
    def schedule():
        made = WarmupCosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), warmup_steps=2)
        made.end_at(9)
        return made

    one, two = schedule(), schedule()
    for _ in range(5):
        one.optimizer.step()
        one.step()
    two.load_state_dict(one.state_dict())
    for made in (one, two):
        made.optimizer.step()
        made.step()
    assert two.get_last_lr() == one.get_last_lr()


def test_vectors_and_flagged_parameters_do_not_decay():
    block = build_block("jet", 32, num_heads=2, head_dim=8)
    block.q_proj.requires_grad_(False)
    decayed, plain = parameter_groups(block)
    assert plain["weight_decay"] == 0.0 and "weight_decay" not in decayed
    names = {id(parameter): name for name, parameter in block.named_parameters()}
    found = {names[id(parameter)] for parameter in plain["params"]}
    assert {"A_log", "dt_bias", "o_norm.weight"} <= found
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    everything = found | {names[id(parameter)] for parameter in decayed["params"]}
    assert everything == set(names.values()) - {"q_proj.weight"}


def test_a_flagged_matrix_does_not_decay():
    layer = nn.Linear(3, 3, bias=False)
    layer.weight._no_weight_decay = True
    [group] = parameter_groups(layer)
    assert group["weight_decay"] == 0.0


def test_nothing_to_train_is_said():
    with pytest.raises(UserError, match="No parameter is trainable"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False))


def test_copied_and_loaded_blocks_do_not_decay_what_they_name():
    block = build_block("rwkv7", 32, num_heads=2, head_dim=8)
    loaded = build_block("rwkv7", 32, num_heads=2, head_dim=8)
    loaded.load_state_dict(block.state_dict(), assign=True)
    for other in (copy.deepcopy(block), loaded):
        _, plain = parameter_groups(other)
        assert {id(other.x_mix), id(other.r_k)} <= {id(parameter) for parameter in plain["params"]}
