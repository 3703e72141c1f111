import re
from pathlib import Path

import torch
from transformers import MistralConfig, MistralForCausalLM

from tests.models.small import prompts, small_model

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("models.md", "serve.md")]
SIZES = {"hidden_size": 48, "intermediate_size": 50, "num_attention_heads": 6, "num_key_value_heads": 2}


@torch.no_grad()
def test_the_examples_run_and_the_new_family_has_its_teachers_logits(tmp_path, monkeypatch):
    small_model(["attn"] * 4, hidden_size=48).save_pretrained(tmp_path / "teacher")
    config = MistralConfig(vocab_size=61, num_hidden_layers=3, sliding_window=7, initializer_range=0.3, **SIZES)
    torch.manual_seed(0)
    mistral = MistralForCausalLM(config).eval()
    mistral.save_pretrained(tmp_path / "mistral")
    monkeypatch.chdir(tmp_path)
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) == 4
    names = {}
    exec("\n".join(blocks), names)
    ids = prompts(length=41)
    torch.testing.assert_close(names["mistral_teacher"](ids).logits, mistral(ids).logits, atol=1e-5, rtol=0)
