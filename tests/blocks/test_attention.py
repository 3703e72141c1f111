import pytest
import torch
from transformers import PreTrainedConfig

from jetlit.blocks.attention import Attention
from jetlit.blocks.packing import packed_positions, sequence_index
from jetlit.errors import UserError
from tests.blocks.attention_reference import reference_attention, rotary

SHAPES = [
    {"qkv_bias": True},  # Qwen2
    {"qkv_bias": False, "qk_norm": True},  # Qwen3
    {"qkv_bias": True, "output_bias": True},  # Llama with attention_bias
    {"qkv_bias": False},
]


def attention(heads: int = 6, kv_heads: int = 2, size: int = 10, **settings) -> Attention:
    torch.manual_seed(0)
    block = Attention(36, heads, kv_heads, size, **settings).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block


def with_implementation(block: Attention, name: str) -> Attention:
    block.config = PreTrainedConfig(attn_implementation=name)
    return block


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_a_token_by_token_float64_reference(settings, implementation):
    block = with_implementation(attention(**settings), implementation)
    hidden = torch.randn(2, 13, 36)
    found = block(hidden, position_embeddings=rotary(13, 10))
    expected = torch.stack([reference_attention(block, row) for row in hidden])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (9, 3)])
def test_query_heads_share_key_value_heads_in_order(heads, kv_heads):
    block = attention(heads, kv_heads)
    hidden = torch.randn(1, 7, 36)
    found = block(hidden, position_embeddings=rotary(7, 10))
    torch.testing.assert_close(found[0].double(), reference_attention(block, hidden[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_packed_sequences_do_not_see_each_other(implementation):
    block = with_implementation(attention(), implementation)
    hidden, bounds = torch.randn(1, 12, 36), torch.tensor([0, 5, 6, 12])
    cos, sin = rotary(12, 10)
    order = packed_positions(bounds, 12)
    found = block(hidden, cu_seqlens=bounds, position_embeddings=(cos[:, order], sin[:, order]))
    expected = reference_attention(block, hidden[0], starts=(0, 5, 6))
    torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_packed_positions_restart_and_empty_sequences_have_no_token():
    bounds = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    assert packed_positions(bounds, 7).tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert sequence_index(bounds, 7).tolist() == [0, 0, 0, 2, 2, 2, 2]


def test_a_copy_made_from_attention_gives_the_same_output_and_can_diverge():
    block = attention(qk_norm=True)
    copied = Attention.from_attention(block)
    hidden = torch.randn(1, 5, 36)
    assert torch.equal(copied(hidden), block(hidden))
    torch.nn.init.zeros_(copied.o_proj.weight)
    assert not torch.equal(copied(hidden), block(hidden))


def test_a_shape_that_would_lose_the_weights_is_refused():
    with pytest.raises(UserError, match="num_heads"):
        Attention.from_attention(attention(), num_heads=3)


def test_uneven_heads_and_odd_head_size_are_refused():
    with pytest.raises(UserError, match="multiple of num_key_value_heads"):
        Attention(16, 5, 2, 4)
    with pytest.raises(UserError, match="even"):
        Attention(16, 4, 2, 5)


def test_state_bytes_counts_keys_and_values():
    assert attention().state_bytes(3, 100, torch.bfloat16) == 2 * 3 * 100 * 2 * 10 * 2
