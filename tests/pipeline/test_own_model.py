"""docs/your_own_model.md: its program runs on a teacher and text of one's own, its files and keys exist."""

import re
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/your_own_model.md").read_text()
CONFIGS = ROOT / "configs/smollm2_135m"


def test_the_program_makes_a_hybrid_of_my_teacher_on_my_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    monkeypatch.chdir(tmp_path)
    Path("my_text").mkdir()
    for number in range(300):
        Path(f"my_text/{number}.txt").write_text(f"{number} " + "some text of my own " * 100)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
    bpe.train([str(path) for path in Path("my_text").glob("*")], trainers.BpeTrainer(special_tokens=["<end>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer) + 8, num_hidden_layers=3, **sizes)).save_pretrained(
        "my_teacher"
    )
    tokenizer.save_pretrained("my_teacher")
    exec(compile(code.replace("max_steps=20", "max_steps=2"), "your_own_model.md", "exec"), {})
    hybrid = AutoModelForCausalLM.from_pretrained("my_hybrid")
    assert sorted(hybrid.config.layer_types) == ["attn", "jet", "jet"]


def test_the_page_names_files_and_keys_that_exist() -> None:
    files = set(re.findall(r"`(\w+\.yaml)`", PAGE))
    assert files and all((CONFIGS / name).exists() for name in files)
    keys = {"placement.yaml": ["budget", "sliding_window_budget"], "hardware.yaml": ["state_size", "batch", "context"]}
    for name, expected in keys.items():
        assert set(expected) <= set(yaml.safe_load((CONFIGS / name).read_text()))
