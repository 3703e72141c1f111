import json

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jetlit.errors import UserError
from jetlit.models import load_model
from jetlit.models.assembly import empty_model
from jetlit.models.loading import convert_config
from tests.models.small import prompts, small_model

SIZES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TEACHERS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama with biases, tied, llama3 rope": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters=LLAMA3),
    ),
    "llama with as many key heads": (LlamaForCausalLM, LlamaConfig(**SIZES | {"num_key_value_heads": 6})),
    "qwen2 tied": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen2 with sliding windows": (
        Qwen2ForCausalLM,
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    ),
    "qwen3 tied": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)),
    "qwen3 with biases": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=10, attention_bias=True)),
}


def teacher(name: str):
    cls, config = TEACHERS[name]
    torch.manual_seed(0)
    model = cls(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases of zero and norms of one would hide a mistake
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model


@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_logits_equal_transformers(name, tmp_path):
    original, ids = teacher(name), prompts(length=41)
    original.save_pretrained(tmp_path)
    expected = original(ids).logits
    torch.testing.assert_close(load_model(original)(ids).logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(load_model(str(tmp_path)).eval()(ids).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_copy_of_a_model_is_its_own():
    original = teacher("llama")
    copied = load_model(original)
    torch.nn.init.zeros_(copied.lm_head.weight)
    assert original.lm_head.weight.any()


# The shapes of Qwen2.5-1.5B and Qwen3-1.7B-Base, and what their config.json leads transformers to count.
REAL = {
    "qwen2.5-1.5b": (
        Qwen2ForCausalLM,
        Qwen2Config(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        1_543_714_304,
    ),
    "qwen3-1.7b": (
        Qwen3ForCausalLM,
        Qwen3Config(
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        ),
        1_720_574_976,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_names_and_shapes_of_the_paper_s_teachers_are_transformers(name):
    cls, config, parameters = REAL[name]
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in cls(config).state_dict().items()}
    ours = empty_model(convert_config(config))
    assert {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters


def test_the_type_of_the_weights_can_be_chosen(tmp_path):
    teacher("qwen2 tied").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).dtype == torch.bfloat16
    assert load_model(str(tmp_path), dtype=torch.float32).dtype == torch.float32
    assert load_model(teacher("llama"), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_our_own_checkpoints_are_teachers_too(tmp_path):
    model = small_model(["attn", "jet"])
    model.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).config.layer_types == ["attn", "jet"]
    assert load_model(model) is model


def test_another_family_is_refused_by_name(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    model.save_pretrained(tmp_path)
    for source in (model, str(tmp_path)):
        with pytest.raises(UserError, match="'gpt2' is not supported: use a checkpoint of type llama, qwen2, qwen3"):
            load_model(source)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no teacher") as error:
        load_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_remote_code_is_never_run(tmp_path):
    teacher("llama").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"model_type": "llama_of_mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()
