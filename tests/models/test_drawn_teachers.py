"""Teachers with drawn configurations: whatever transformers computes, every way to convert it computes too."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from jetlit.errors import UserError
from jetlit.models import Architecture, SuperNetwork, hybridize, load_model
from jetlit.models.export import convert

ATTACKS = int(os.environ.get("ATTACKS", "1"))
VOCABULARY, CONTEXT = 23, 32
CLOSE = {"rtol": 0, "atol": 2e-5}


@st.composite
def rotary(draw, head_dim):
    """Draw settings of every rope type; contexts of the test lie on both sides of the original one."""
    kind = draw(st.sampled_from(["default", "linear", "dynamic", "yarn", "longrope", "llama3"]))
    values = {"rope_type": kind, "rope_theta": draw(st.sampled_from([100.0, 10000.0, 1e6]))}
    factors = st.lists(st.sampled_from([1.0, 1.5, 3.0]), min_size=head_dim // 2, max_size=head_dim // 2)
    if kind != "default":
        values["factor"] = draw(st.sampled_from([1.0, 2.0, 4.5]))
    if kind in ("yarn", "longrope", "llama3"):
        values["original_max_position_embeddings"] = draw(st.sampled_from([8, CONTEXT]))
    if kind == "yarn":
        values |= draw(st.sampled_from([{}, {"beta_fast": 16, "beta_slow": 2}, {"attention_factor": 0.8}]))
        values |= draw(st.sampled_from([{}, {"mscale": 0.7, "mscale_all_dim": 0.9}]))
    if kind == "longrope":
        values |= {"short_factor": draw(factors), "long_factor": draw(factors)}
    if kind == "llama3":
        values |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    return values


@st.composite
def configurations(draw):
    family = draw(st.sampled_from(["llama", "qwen2", "qwen3"]))
    heads, groups = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]))
    # Qwen2 in transformers knows no other head size than hidden_size / heads.
    head_dim = draw(st.sampled_from([4, 6, 8]))
    free = family != "qwen2" and draw(st.booleans())
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 12 if free else heads * head_dim,
        "intermediate_size": draw(st.sampled_from([5, 16])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rope_parameters": draw(rotary(head_dim)),
        "tie_word_embeddings": draw(st.booleans()),
        "pad_token_id": draw(st.sampled_from([None, 0, -1])),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if free or family == "qwen3":
        values["head_dim"] = head_dim
    if family == "llama":
        values |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    if family == "qwen3":
        values["attention_bias"] = draw(st.booleans())
    if family != "llama":
        values |= {"use_sliding_window": draw(st.booleans()), "sliding_window": draw(st.sampled_from([3, 64]))}
        values["max_window_layers"] = draw(st.integers(0, values["num_hidden_layers"]))
    return family, values


def write_teacher(folder, family, values, own_head):
    """Save a random model of a configuration; `own_head` puts another head in the file than the embedding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases of zero and norms of one would hide a mistake
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    model.save_pretrained(folder)
    if own_head:
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = torch.randn(VOCABULARY, values["hidden_size"]) * 0.3
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def check_conversions(family, values, own_head):
    ids = torch.randint(3, VOCABULARY, (2, CONTEXT + 5), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "teacher")
        write_teacher(folder, family, values, own_head)
        original = AutoModelForCausalLM.from_pretrained(folder)
        expected = [original(part).logits for part in (ids, ids[:, :7])]  # long first: some rope types remember it

        def check(model):
            for part, logits in zip((ids, ids[:, :7]), expected, strict=True):
                torch.testing.assert_close(model.eval()(part).logits, logits, **CLOSE)

        teacher = load_model(folder)
        check(teacher)
        check(load_model(original))
        own = Architecture.of(teacher.config)
        check(hybridize(teacher, own))
        check(AutoModelForCausalLM.from_pretrained(convert(str(folder), own, Path(name, "converted"))))
        attention = Architecture(["attn"] * len(own.layer_types))
        if "swa" in own.layer_types:
            for widen in (lambda: hybridize(teacher, attention), lambda: SuperNetwork(teacher)):
                with pytest.raises(UserError, match="attends to the last"):
                    widen()
        else:
            network = SuperNetwork(teacher, ("gla",))
            check(network)
            check(network.extract(attention.layer_types))
            network.save_pretrained(Path(name, "network"))
            check(SuperNetwork.from_pretrained(Path(name, "network")))


DRAWN = {"family_and_values": configurations(), "own_head": st.booleans()}
PLAIN = {"database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@given(**DRAWN)
@settings(max_examples=8, **PLAIN)
def test_every_conversion_equals_transformers(family_and_values, own_head):
    check_conversions(*family_and_values, own_head)


@pytest.mark.attack
@given(**DRAWN)
@settings(max_examples=100 * ATTACKS, **(PLAIN | {"derandomize": False}))
def test_many_drawn_conversions_equal_transformers(family_and_values, own_head):
    check_conversions(*family_and_values, own_head)
