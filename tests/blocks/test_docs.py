"""docs/blocks.md lists every block and shows examples/own_block.py, whose block keeps the contract."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from jetlit.blocks import BLOCKS
from jetlit.blocks.attention import Attention
from tests.blocks import test_contract as contract
from tests.blocks.cases import HIDDEN

ROOT = Path(__file__).parents[2]
DOCS, EXAMPLE = ROOT / "docs" / "blocks.md", ROOT / "examples" / "own_block.py"


@pytest.fixture
def leaky(monkeypatch):
    """Run the example's definitions; its block is in the table until the test ends."""
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))
    runpy.run_path(str(EXAMPLE))
    return "leaky"


@pytest.mark.parametrize(
    "check",
    [
        contract.test_chunks_agree_with_token_by_token,
        contract.test_no_output_sees_a_later_token,
        contract.test_packed_sequences_are_separate,
        contract.test_packed_sequences_continue_from_carried_state,
        contract.test_padding_touches_neither_state_nor_output,
        contract.test_gradients_of_packed_and_padded_batches,
        contract.test_every_parameter_has_a_gradient,
    ],
    ids=lambda check: check.__name__,
)
def test_documented_block_keeps_the_contract(leaky, check):
    check(leaky)


def test_documented_block_inherits_from_attention(leaky):
    block = BLOCKS[leaky].from_attention(Attention(HIDDEN, 4, 2, 6))
    assert block(torch.randn(1, 5, HIDDEN)).shape == (1, 5, HIDDEN)


def test_the_page_shows_the_example():
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```" in DOCS.read_text(encoding="utf-8")


def test_the_example_generates_tokens(monkeypatch, capsys):
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (tokens,) = eval(capsys.readouterr().out)
    assert tokens[:3] == [1, 2, 3] and len(tokens) == 11


def test_every_block_is_in_the_table():
    rows = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == set(BLOCKS)
