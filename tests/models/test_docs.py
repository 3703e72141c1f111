import re
from pathlib import Path

from tests.models.small import small_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_examples_run(tmp_path, monkeypatch):
    small_model(["attn"] * 4, hidden_size=48).save_pretrained(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
