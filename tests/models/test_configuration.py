import json
import math

import pytest
from transformers import AutoConfig, PreTrainedConfig

from jetlit.errors import UserError
from jetlit.models import JetNemotronConfig
from tests.models.small import small_config

RELEASED_KEYS = {
    "architectures", "attention_dropout", "auto_map", "bos_token_id", "efficient_attention_config", "eos_token_id",
    "hidden_act", "hidden_size", "initializer_range", "intermediate_size", "layer_types", "max_position_embeddings",
    "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_scaling",
    "rope_theta", "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache", "vocab_size",
}  # fmt: skip


def written(config: JetNemotronConfig, folder) -> dict:
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_config_json_has_the_released_keys(tmp_path):
    config = small_config(["jet", "attn", "swa"], architectures=["JetNemotronForCausalLM"], dtype="bfloat16")
    values = written(config, tmp_path)
    assert set(values) == RELEASED_KEYS
    assert values["auto_map"]["AutoModelForCausalLM"] == "modeling_jet_nemotron.JetNemotronForCausalLM"
    assert values["rope_theta"] == 10000.0 and values["rope_scaling"] is None
    assert values["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 2.0}},
    ],
)
def test_old_and_new_rotary_names_are_read_and_the_old_ones_written(tmp_path, rope):
    config = small_config(["attn"], **rope)
    assert config.rope_parameters["rope_theta"] == 500000.0
    values = written(config, tmp_path)
    assert values["rope_theta"] == 500000.0 and "rope_parameters" not in values
    assert (values["rope_scaling"] or {}).get("factor") == config.rope_parameters.get("factor")
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_a_round_trip_keeps_every_value(tmp_path):
    jet = {"mode": "chunk", "num_heads": 4, "head_dim": 6, "expand_v": 2.6666666667, "norm_eps": "1e-5"}
    config = small_config(
        ["jet", "gla", "attn"],
        efficient_attention_config={"jet": jet},
        qk_norm=True,
        attention_bias=False,
        output_bias=True,
        mlp_bias=True,
        head_dim=8,
        bos_token_id=1,
        eos_token_id=[2, 3],
        pad_token_id=0,
    )
    config.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    ours, theirs = config.to_dict(), read.to_dict()
    assert isinstance(read, JetNemotronConfig)
    assert {key for key in ours if ours[key] != theirs[key]} <= {"_name_or_path"}


def test_other_models_name_the_same_files_but_need_more_keys(tmp_path):
    for config in (small_config(["gla"]), small_config(["attn"], qk_norm=True)):
        assert not config.is_released_format
        assert written(config, tmp_path)["auto_map"]["AutoConfig"] == "configuration_jet_nemotron.JetNemotronConfig"


def test_a_value_of_the_wrong_type_is_one_sentence(tmp_path):
    values = written(small_config(["attn"]), tmp_path) | {"hidden_size": "wide"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="hidden_size") as error:
        AutoConfig.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layer_types": ["jet", "atn", "attn"]}, "'atn'"),
        ({"layer_types": ["attn"] * 4}, "4 entries for 3 layers"),
        ({"efficient_attention_config": {"swa": {"window_size": 0}}}, "window_size"),
        ({"efficient_attention_config": {"swa": {"window_size": 3.5}}}, "window_size"),
        ({"efficient_attention_config": {"swa": {"window_size": -4}}}, "window_size"),
        ({"efficient_attention_config": {"swa": {"window_size": True}}}, "window_size"),
        ({"efficient_attention_config": {"swa": {"window_size": "long"}}}, "window_size"),
        ({"efficient_attention_config": None}, "window_size"),
        ({"efficient_attention_config": {"swa": {"window_size": 5}, "jet": "large"}}, "jet must map"),
        ({"hidden_act": "swishy"}, "'swishy' is no activation"),
        ({"num_attention_heads": 7}, "does not divide"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number"),
        ({"num_attention_heads": 0, "head_dim": 4}, "num_attention_heads must be a whole number"),
        ({"head_dim": 0}, "head_dim must be a whole number"),
        ({"vocab_size": 0}, "vocab_size must be a whole number"),
        ({"hidden_size": -4}, "hidden_size must be a whole number"),
        ({"intermediate_size": 10**14}, "intermediate_size must be a whole number from 1 to 1,073,741,824"),
        ({"layer_types": ["attn"], "num_hidden_layers": 10**6}, "num_hidden_layers must be .* from 1 to 1,000"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type 'spiral' is not known: use one of default, linear"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "rope_type 'spiral' is not known"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "cannot be computed .'factor' is missing."),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.0}}, "not finite"),
        ({"rope_theta": 0.0}, "not finite"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "factor": 2.0,
                    "short_factor": [1.0],
                    "long_factor": [1.0, 2.0],
                }
            },
            "cannot be computed",
        ),
    ],
)
def test_what_cannot_be_built_is_one_sentence(changes, sentence):
    settings = {"layer_types": ["jet", "swa", "attn"], "num_hidden_layers": 3} | changes
    layers = settings.pop("layer_types")
    with pytest.raises(UserError, match=sentence) as error:
        small_config(layers, **settings)
    assert "\n" not in str(error.value)


def test_the_first_layers_of_a_checkpoint_can_be_read(tmp_path):
    small_config(["jet", "attn", "gla"]).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_hidden_layers=2)
    assert config.layer_types == ["jet", "attn"] and config.num_hidden_layers == 2
    with pytest.raises(UserError, match="3 entries for 4 layers"):
        AutoConfig.from_pretrained(tmp_path, num_hidden_layers=4)


def test_a_plain_configuration_of_transformers_reads_our_layer_types(tmp_path):
    small_config(["jet", "attn", "gla"]).save_pretrained(tmp_path)
    config = PreTrainedConfig.from_json_file(tmp_path / "config.json")  # as Trainer does when it resumes
    assert config.layer_types == ["jet", "attn", "gla"]
