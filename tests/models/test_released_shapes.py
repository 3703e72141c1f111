"""The released 2B and 4B from shapes alone, against the formulas of the released format."""

import json
from pathlib import Path

import pytest

from jetlit.models import Architecture, JetNemotronConfig
from jetlit.models.assembly import empty_model

CONFIGS = Path(__file__).parents[2] / "configs"


def expected_shapes(values: dict) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = values["hidden_size"], values["intermediate_size"], values["vocab_size"]
    size = hidden // values["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for index, kind in enumerate(values["layer_types"]):
        layer = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        if kind == "jet":
            jet = values["efficient_attention_config"]["jet"]
            heads, taps = jet["num_heads"], jet["conv_size"]
            keys = heads * jet["head_dim"]
            outputs = int(keys * jet["expand_v"])
            rank = outputs // jet["dconv_generator_reduction"]
            mixer = {
                "q_proj.weight": (keys, hidden),
                "k_proj.weight": (keys, hidden),
                "v_proj.weight": (outputs, hidden),
                "g_proj.weight": (outputs, hidden),
                "a_proj.weight": (heads, hidden),
                "b_proj.weight": (heads, hidden),
                "A_log": (heads,),
                "dt_bias": (heads,),
                "dynamic_conv1d.kernel_generator.w1.weight": (rank, hidden),
                "dynamic_conv1d.kernel_generator.w2.weight": (outputs * taps, rank),
                "dynamic_conv1d.kernel_generator.w2.bias": (outputs * taps,),
                "o_norm.weight": (int(jet["head_dim"] * jet["expand_v"]),),
                "o_proj.weight": (hidden, outputs),
            }
        else:
            shared = values["num_key_value_heads"] * size
            mixer = {"q_proj.weight": (hidden, hidden), "q_proj.bias": (hidden,), "o_proj.weight": (hidden, hidden)}
            for name in ("k_proj", "v_proj"):
                mixer |= {f"{name}.weight": (shared, hidden), f"{name}.bias": (shared,)}
        layer |= {f"self_attn.{name}": shape for name, shape in mixer.items()}
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


@pytest.mark.parametrize("name", ["2b", "4b"])
def test_names_and_shapes_are_the_released_ones(name):
    folder = CONFIGS / f"jet_nemotron_{name}"
    values = json.loads((folder / "config.json").read_text())
    model = empty_model(JetNemotronConfig.from_pretrained(folder))
    found = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    assert found == expected_shapes(values)


def test_the_2b_has_1_964_806_208_parameters():
    model = empty_model(JetNemotronConfig.from_pretrained(CONFIGS / "jet_nemotron_2b"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_964_806_208


@pytest.mark.parametrize("name", ["2b", "4b"])
def test_the_shipped_configuration_is_written_as_it_was_read(name, tmp_path):
    folder = CONFIGS / f"jet_nemotron_{name}"
    config = JetNemotronConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written.pop("transformers_version")
    assert written == json.loads((folder / "config.json").read_text())
    assert Architecture.load(folder / "architecture.json") == Architecture.of(config)


def test_layers_stand_where_the_release_has_them():
    def places(name: str, kind: str) -> list[int]:
        layers = JetNemotronConfig.from_pretrained(CONFIGS / f"jet_nemotron_{name}").layer_types
        return [index for index, layer in enumerate(layers) if layer == kind]

    assert (places("2b", "attn"), places("2b", "swa")) == ([14, 19], [20, 21])
    assert (places("4b", "attn"), places("4b", "swa")) == ([17, 20, 32], [5, 16, 19, 21, 22, 25, 27])
