import pytest
import torch
from transformers import PreTrainedConfig

from jetlit.blocks.attention import Attention
from jetlit.blocks.sliding_window import SlidingWindowAttention
from jetlit.errors import UserError
from tests.blocks.attention_reference import reference_attention, rotary


def sliding(window: int) -> SlidingWindowAttention:
    torch.manual_seed(1)
    block = SlidingWindowAttention(20, 4, 2, 6, window_size=window).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block


@pytest.mark.parametrize("window", [1, 2, 5, 11, 12, 40])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_token_sees_exactly_the_window_itself_included(window, implementation):
    block = sliding(window)
    block.config = PreTrainedConfig(attn_implementation=implementation)
    hidden = torch.randn(1, 11, 20)
    found = block(hidden, position_embeddings=rotary(11, 6))
    torch.testing.assert_close(found[0].double(), reference_attention(block, hidden[0]), atol=1e-5, rtol=1e-5)


def test_the_window_ends_at_a_packed_sequences_start():
    block, hidden = sliding(4), torch.randn(1, 9, 20)
    found = block(hidden, cu_seqlens=torch.tensor([0, 2, 9]))
    alone = torch.cat([block(hidden[:, :2]), block(hidden[:, 2:])], 1)
    torch.testing.assert_close(found, alone)


def test_starts_from_full_attention_and_equals_it_while_the_window_is_not_full():
    full = Attention(20, 4, 2, 6)
    block = SlidingWindowAttention.from_attention(full, window_size=7)
    hidden = torch.randn(1, 10, 20)
    torch.testing.assert_close(block(hidden)[:, :7], full(hidden)[:, :7])
    assert not torch.allclose(block(hidden)[:, 9:], full(hidden)[:, 9:])


@pytest.mark.parametrize("window", [0, -3, 2.5, True, None])
def test_an_odd_window_is_refused(window):
    with pytest.raises(UserError, match="window_size"):
        SlidingWindowAttention(20, 4, 2, 6, window_size=window)


def test_state_bytes_stop_growing_at_the_window():
    block = sliding(8)
    assert block.state_bytes(1, 5, torch.float32) == 2 * 5 * 2 * 6 * 4
    assert block.state_bytes(1, 500, torch.float32) == 2 * 8 * 2 * 6 * 4
