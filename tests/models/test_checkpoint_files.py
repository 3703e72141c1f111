import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, JetNemotronModel
from tests.models.small import HYBRIDS, prompts, small_model


@pytest.fixture
def saved(tmp_path):
    model = small_model(["jet", "attn", "swa"])
    model.save_pretrained(tmp_path)
    return model, tmp_path


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", HYBRIDS.values(), ids=HYBRIDS)
def test_a_round_trip_is_exact(tmp_path, layers, dtype):
    model = small_model(layers).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, info = JetNemotronForCausalLM.from_pretrained(tmp_path, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"] and not info["unexpected_keys"]
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name
    with torch.no_grad():
        assert torch.equal(loaded.eval()(prompts()).logits, model(prompts()).logits)


def test_the_automatic_class_loads_it_without_remote_code(saved):
    model, folder = saved
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is JetNemotronForCausalLM
    with torch.no_grad():
        assert torch.equal(loaded.eval()(prompts()).logits, model(prompts()).logits)


def test_a_tied_head_is_not_in_the_file_and_only_safetensors_are_written(saved):
    _, folder = saved
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "configuration_jet_nemotron.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_jet_nemotron.py",
    ]


def test_several_files_load_like_one(tmp_path):
    model = small_model(HYBRIDS["hybrid"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))


def test_a_missing_tensor_is_named(saved):
    change_tensors(saved[1], lambda tensors: tensors.pop("model.layers.0.self_attn.A_log"))
    with pytest.raises(UserError, match=r"lacks tensors \(model.layers.0.self_attn.A_log\)"):
        AutoModelForCausalLM.from_pretrained(saved[1])


def test_a_left_over_tensor_is_named(saved):
    change_tensors(saved[1], lambda tensors: tensors.update({"model.layers.9.extra": torch.ones(2)}))
    with pytest.raises(UserError, match=r"nothing uses \(model.layers.9.extra\)"):
        AutoModelForCausalLM.from_pretrained(saved[1])


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(saved):
    change_tensors(saved[1], lambda tensors: tensors.update({"model.norm.weight": torch.ones(35)}))
    with pytest.raises(UserError, match=r"model.norm.weight is \[35\] and should be \[36\]"):
        AutoModelForCausalLM.from_pretrained(saved[1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "lacks tensors"),
        (lambda tensors: tensors.update({"extra": torch.ones(2)}), "nothing uses"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(35)}), "wrong shape"),
    ],
    ids=["missing", "left over", "wrong shape"],
)
def test_what_does_not_fit_is_refused_before_a_tensor_is_read(saved, change, sentence, monkeypatch):
    change_tensors(saved[1], change)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)  # would be called to load
    with pytest.raises(UserError, match=sentence):
        JetNemotronForCausalLM.from_pretrained(saved[1])


def test_a_damaged_file_is_one_sentence(saved):
    weights = saved[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(UserError, match="missing or damaged"):
        AutoModelForCausalLM.from_pretrained(saved[1])


def test_a_missing_file_of_several_and_a_damaged_index_are_one_sentence(tmp_path):
    small_model(HYBRIDS["hybrid"]).save_pretrained(tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match="safetensors is missing or damaged"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    for content in ('{"weight_map"', "[]", '{"weight_map": 3}'):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match=r"index.json is damaged .*: get the file again") as error:
            AutoModelForCausalLM.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)


def test_the_decoder_alone_loads_from_the_same_folder(saved):
    model, folder = saved
    decoder = JetNemotronModel.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(decoder.state_dict().values(), model.model.state_dict().values()))


def test_pickled_weights_are_never_read(saved):
    _, folder = saved
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="Only safetensors are read"):
        AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False)
    (folder / "model.safetensors").unlink()
    for use in (None, True, False):
        with pytest.raises(UserError, match="safetensors"):
            AutoModelForCausalLM.from_pretrained(folder, use_safetensors=use)
    with pytest.raises(UserError, match="is a file"):
        JetNemotronForCausalLM.from_pretrained(folder / "pytorch_model.bin", config=saved[0].config)
