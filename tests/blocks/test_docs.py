"""The block that docs/blocks.md adds as an example is a block."""

import re
from pathlib import Path

import pytest
import torch

from jetlit.blocks import BLOCKS
from jetlit.blocks.attention import Attention
from tests.blocks import test_contract as contract
from tests.blocks.cases import HIDDEN

DOCS = Path(__file__).parents[2] / "docs" / "blocks.md"


@pytest.fixture
def leaky(monkeypatch, tmp_path):
    """Executes the documented file and its registry line."""
    text = DOCS.read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# jetlit/blocks/\w+\.py\n.*?)```", text, re.DOTALL)
    name, class_name = re.search(r'```\n    "(\w+)": (\w+),\n```', text).groups()
    namespace = {}
    exec(compile(source, "docs/blocks.md", "exec"), namespace)
    monkeypatch.setitem(BLOCKS, name, namespace[class_name])
    return name


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


def test_every_block_is_in_the_table():
    rows = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == set(BLOCKS)
