"""Blocks from outside of jetlit: registered by a decorator or found by an entry point."""

import inspect
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import torch

from jetlit import registry
from jetlit.blocks import (
    BLOCKS,
    LinearMixer,
    LinearSettings,
    build_block,
    check_block_config,
    get_block,
    is_attention,
    register_block,
)
from jetlit.blocks.gla import GLA
from jetlit.blocks.sliding_window import SlidingWindowAttention
from jetlit.errors import UserError
from jetlit.models import Architecture, JetNemotronConfig, JetNemotronForCausalLM, SuperNetwork, hybridize
from jetlit.models.loading import load_model
from jetlit.models.mixers import block_arguments, inherited_settings
from tests.blocks.cases import add_block
from tests.models.small import prompts, small_config, small_model


@dataclass(frozen=True)
class SlowSettings(LinearSettings):
    slowness: float = 0.5
    initializer_range: float = 0.0


class Running(LinearMixer):
    """S ← slowness · S + k ⊗ v, one token after the other."""

    Settings = SlowSettings
    inherits_bias = False

    def mix(self, hidden, state, cu_seqlens):
        q, k, v = self.heads(hidden)
        carried = state.read("recurrent")
        memory = 0 if carried is None else carried
        outputs = []
        for t in range(hidden.shape[1]):
            memory = self.settings.slowness * memory + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append((q[:, t, :, None] @ memory)[:, :, 0])
        state.write("recurrent", memory)
        return self.o_proj(torch.stack(outputs, 1).flatten(2))


@pytest.fixture
def table(monkeypatch):
    """Return the table of blocks, which loses what a test adds."""
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))


@torch.no_grad()
def test_a_registered_block_makes_a_hybrid_and_a_super_network(table, tmp_path):
    assert register_block("running")(Running) is Running
    teacher, ids = small_model(["attn"] * 3), prompts(length=9)
    architecture = Architecture(["attn", "running", "attn"], {"running": {"slowness": 0.25}})
    hybrid = hybridize(teacher, architecture)
    mixer = hybrid.model.layers[1].self_attn
    assert isinstance(mixer, Running) and mixer.settings.slowness == 0.25 and mixer.q_proj.bias is None
    hybrid.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path)(ids).logits, hybrid(ids).logits)
    network = SuperNetwork(teacher, alternatives=("running", "gla"), block_configs=architecture.block_configs)
    network.set_active_subnet(architecture.layer_types)
    assert torch.equal(network(ids).logits, hybrid(ids).logits)


def test_an_entry_point_adds_a_block(monkeypatch):
    extension = ModuleType("an_extension")
    extension.Running = Running
    monkeypatch.setitem(sys.modules, "an_extension", extension)
    point = EntryPoint("from_a_package", "an_extension:Running", "jetlit.blocks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "jetlit.blocks" else [])
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))
    monkeypatch.setattr(BLOCKS, "_complete", False)
    assert get_block("from_a_package") is Running and "from_a_package" in set(BLOCKS)


def test_a_name_is_given_once(table):
    with pytest.raises(UserError, match="already"):
        register_block("gla")(Running)
    assert get_block("gla") is GLA


def test_attention_keeps_keys_and_values():
    assert [name for name in BLOCKS if is_attention(name)] == ["attn", "swa"]


def test_settings_are_the_constructors_arguments(table):
    register_block("running")(Running)
    names = [
        "hidden_size",
        "num_heads",
        "head_dim",
        "expand_v",
        "qkv_bias",
        "norm_eps",
        "slowness",
        "initializer_range",
    ]
    assert list(inspect.signature(Running).parameters) == names
    assert build_block("running", 8, num_heads=2, head_dim=4).settings == SlowSettings(8, 2, 4)
    with pytest.raises(UserError, match="no setting 'slownes'; it has .*slowness"):
        check_block_config("running", {"slownes": 1}, partial=True)


def test_a_model_gives_a_block_the_settings_that_it_has(table):
    register_block("running")(Running)
    config = small_config(["attn"])
    heads = {"num_heads": 6, "head_dim": 6}
    assert inherited_settings(config, "running") == inherited_settings(config, "jet") == heads
    assert inherited_settings(config, "gla") == heads | {"qkv_bias": True}
    assert inherited_settings(config, "swa") == {}
    assert block_arguments(config, "running") == heads | {"initializer_range": 0.35}
    assert block_arguments(config, "gla") == heads | {"qkv_bias": True}


def test_a_window_of_another_name_works_as_swa(monkeypatch):
    class Window(SlidingWindowAttention):
        pass

    add_block(monkeypatch, "my_window", Window)
    prompt = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])
    written = []
    for name in ("swa", "my_window"):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
        settings = {name: {"window_size": 4}}
        config = JetNemotronConfig(
            vocab_size=11, num_hidden_layers=2, layer_types=["attn", name], efficient_attention_config=settings, **sizes
        )
        model = JetNemotronForCausalLM(config).eval()
        written.append(model.generate(prompt, max_new_tokens=9, do_sample=False, pad_token_id=0).tolist())
    assert written[0] == written[1]
