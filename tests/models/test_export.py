import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from jetlit.errors import UserError
from jetlit.files import MARK, atomic_folder
from jetlit.models import Architecture
from jetlit.models.export import convert, export
from tests.models.small import prompts, small_model


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


@torch.no_grad()
def test_an_exported_model_loads_with_its_tokenizer(tmp_path):
    model = small_model(["jet", "gla"])
    folder = export(model, tokenizer(), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded(prompts()).logits, model(prompts()).logits)
    assert AutoTokenizer.from_pretrained(folder)("b").input_ids == [1]


def test_a_checkpoints_folder_can_be_exported_over_an_older_export(tmp_path):
    small_model(["attn"]).save_pretrained(tmp_path / "in")
    with atomic_folder(tmp_path / "out") as written:
        (written / "model.safetensors.index.json").write_text("old")
    export(tmp_path / "in", None, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        MARK,
        "config.json",
        "configuration_jet_nemotron.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_jet_nemotron.py",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"], "nothing temporary is left"


def test_a_folder_with_other_files_and_the_source_are_never_replaced(tmp_path):
    small_model(["attn"]).save_pretrained(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    for write in (export, convert):
        what = None if write is export else Architecture(["attn"])
        with pytest.raises(UserError, match=r"holds thesis.txt, which jetlit did not write there"):
            write(str(tmp_path / "in"), what, tmp_path / "out")
        with pytest.raises(UserError, match="is read from: choose another"):
            write(str(tmp_path / "in"), what, tmp_path / "in")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_an_unknown_format_and_a_bad_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="'gguf'"):
        export(small_model(["attn"]), None, tmp_path / "out", format="gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        export(small_model(["attn"]), None, tmp_path / "file" / "out")
    with pytest.raises(UserError, match="no tokenizer"):
        export(small_model(["attn"]), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_makes_the_hybrid_of_a_placement_and_a_block(tmp_path):
    teacher = small_model(["attn"] * 3)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    Architecture(["gla", "attn", "gla"], {"gla": {"head_dim": 4}}).save(tmp_path / "placement.json")
    folder = convert(
        str(tmp_path / "teacher"),
        tmp_path / "placement.json",
        tmp_path / "hybrid",
        block="jet",
        block_config={"expand_v": 1.5},
        dtype="bfloat16",
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.layer_types == ["jet", "attn", "jet"] and model.dtype == torch.bfloat16
    assert model.model.layers[0].self_attn.value_head_dim == 9
    kept = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(model.state_dict()[kept], teacher.state_dict()[kept].bfloat16())
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids == [0]
    assert "auto_map" in json.loads((folder / "config.json").read_text())
