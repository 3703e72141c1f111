"""What callers of `from_pretrained` and `save_pretrained` may ask for, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, pipeline

from jetlit.errors import UserError
from jetlit.models import Architecture, JetNemotronForCausalLM, JetNemotronModel, SuperNetwork, hybridize, load_model
from tests.models.small import prompts, small_model
from tests.models.test_checkpoint_files import change_tensors


@pytest.fixture
def saved(tmp_path):
    model = small_model(["jet", "attn", "swa"])
    model.save_pretrained(tmp_path)
    return model, tmp_path


def equal(model, other) -> bool:
    with torch.no_grad():
        return torch.equal(model.eval()(prompts()).logits, other.eval()(prompts()).logits)


@pytest.fixture
def untied(saved):
    """Make a folder whose configuration ties the head, with another head in the file."""
    folder = saved[1]
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": torch.randn(61, 36)}))
    return load_model(folder), folder


def test_another_head_than_the_tied_embedding_is_kept_by_every_way_on(untied, tmp_path):
    model, folder = untied
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    full = Architecture(["attn"] * 3)
    teacher = hybridize(small_model(["attn"] * 3), full)
    teacher.lm_head.weight = torch.nn.Parameter(head.clone())  # untied after loading, the configuration unaware
    network = SuperNetwork(teacher)
    models = [
        model,
        hybridize(model, Architecture.of(model.config)),
        hybridize(teacher, full),
        network.extract(["attn"] * 3),
    ]
    for other in models:
        assert torch.equal(other.lm_head.weight, head) and not other.config.tie_word_embeddings
        other.save_pretrained(tmp_path / "again")
        assert torch.equal(load_model(tmp_path / "again").lm_head.weight, head)
    network.save_pretrained(tmp_path / "network")
    assert torch.equal(SuperNetwork.from_pretrained(tmp_path / "network").lm_head.weight, head)


def test_the_embedding_may_be_missing_where_the_head_is_there(saved):
    model, folder = saved
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))
    assert equal(load_model(folder), model)


def test_a_state_dict_gathered_from_shards_writes_a_tied_head_once(saved, tmp_path):
    model, _ = saved
    gathered = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in gathered
    model.save_pretrained(tmp_path / "again", state_dict=dict(gathered))
    assert "lm_head.weight" not in load_file(tmp_path / "again" / "model.safetensors")
    assert equal(load_model(tmp_path / "again"), model)
    gathered["lm_head.weight"] += 1  # one that was trained apart is not lost
    model.save_pretrained(tmp_path / "apart", state_dict=dict(gathered))
    assert torch.equal(load_model(tmp_path / "apart").lm_head.weight, gathered["lm_head.weight"])


def test_subfolders_renamed_tensors_fewer_layers_and_other_sizes_load_as_in_transformers(saved, tmp_path):
    model, folder = saved
    model.save_pretrained(tmp_path / "parent" / "child")
    assert equal(AutoModelForCausalLM.from_pretrained(tmp_path / "parent", subfolder="child"), model)

    shallow = AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=2)
    assert [name for name in model.state_dict() if ".layers.2." not in name] == list(shallow.state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in shallow.state_dict().items())

    wider = AutoModelForCausalLM.from_pretrained(folder, vocab_size=70, ignore_mismatched_sizes=True)
    assert wider.lm_head.weight.shape == (70, 36)
    assert torch.equal(wider.model.norm.weight, model.model.norm.weight)
    with pytest.raises(UserError, match="wrong shape"):
        AutoModelForCausalLM.from_pretrained(folder, vocab_size=70)

    def rename(tensors):
        for name in list(tensors):
            tensors[name.replace("model.", "decoder.")] = tensors.pop(name)

    change_tensors(folder, rename)
    assert equal(AutoModelForCausalLM.from_pretrained(folder, key_mapping={"^decoder": "model"}), model)
    with pytest.raises(UserError, match="lacks tensors"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_and_the_causal_model_load_each_other_s_checkpoints(tmp_path, tied):
    model = small_model(["jet", "attn"], tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "causal")
    decoder = AutoModel.from_pretrained(tmp_path / "causal")
    assert type(decoder) is JetNemotronModel
    decoder.save_pretrained(tmp_path / "decoder")
    again, info = JetNemotronForCausalLM.from_pretrained(tmp_path / "decoder", output_loading_info=True)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), model.model.parameters(), strict=True))
    assert set(info["missing_keys"]) == (set() if tied else {"lm_head.weight"})  # made up, as transformers logs
    if not tied:
        with pytest.raises(UserError, match=r"lacks tensors \(lm_head.weight\)"):
            load_model(tmp_path / "decoder")


def test_features_are_extracted_by_path(saved):
    from jetlit_data import load_tokenizer

    model, folder = saved
    extract = pipeline("feature-extraction", model=str(folder), tokenizer=load_tokenizer("bytes"))
    with torch.no_grad():
        expected = model.model(torch.tensor([[7, 9, 11]])).last_hidden_state
    torch.testing.assert_close(torch.tensor(extract("\x07\x09\x0b")), expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"weights are quantized \(fp8\)"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type 'spiral' is not known"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'factor'"),
        ({"num_attention_heads": 0}, "config.json does not make sense"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be"),
        ({"hidden_size": "wide"}, "config.json does not make sense"),
        ({"model_type": ["llama"]}, "config.json does not make sense"),
        ({"dtype": "float99"}, "config.json does not make sense"),
    ],
)
def test_a_teacher_s_config_that_makes_no_sense_is_one_sentence(tmp_path, changes, sentence):
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=61, hidden_size=12, num_attention_heads=2, num_hidden_layers=1)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | {"model_type": "llama"} | changes))
    with pytest.raises(UserError, match=sentence) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_and_a_hub_out_of_reach_are_one_sentence(saved, monkeypatch):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no safetensors, the only weights that are read"):
        load_model(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # without it, transformers tries for a minute
    with pytest.raises(UserError, match="There is no teacher to load at someone/something") as error:
        load_model("someone/something")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="weights of someone/something cannot be loaded"):
        JetNemotronForCausalLM.from_pretrained("someone/something", config=saved[0].config)
