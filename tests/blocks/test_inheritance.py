"""What linear blocks inherit from a pre-trained attention layer."""

import logging

import pytest
import torch
import torch.nn.functional as F

from jetlit.blocks import BLOCKS
from jetlit.blocks.attention import Attention
from jetlit.blocks.gla import GLA
from jetlit.blocks.retnet import RetNet
from tests.blocks.cases import HIDDEN, LINEAR, DictCache, inputs, lively

HEADS, KV_HEADS, DIM = 6, 2, 8
every_block = pytest.mark.parametrize("name", LINEAR)


def teacher(**config):
    torch.manual_seed(3)
    return lively(Attention(HIDDEN, HEADS, KV_HEADS, DIM, **config)).eval()


def expanded_heads(attention, x, rotation=None):
    """q, k and v [B, T, query heads, D] as the attention's softmax pairs them."""
    q, k, v = attention.project(x, rotation)
    group = attention.num_heads // attention.num_kv_heads
    pairs = [h // group for h in range(attention.num_heads)]
    return q.transpose(1, 2), k[:, pairs].transpose(1, 2), v[:, pairs].transpose(1, 2)


def linear_attention_of(attention, x, rotation=None):
    """Return the attention without its softmax: Σ_{s ≤ t} (q_t · k_s / √D) v_s through the output projection."""
    q, k, v = expanded_heads(attention, x, rotation)
    scores = torch.einsum("bthd,bshd->bhts", q, k).tril() * attention.head_dim**-0.5
    o = torch.einsum("bhts,bshd->bthd", scores, v).flatten(2)
    return F.linear(o, attention.o_proj.weight)


class Ungated(torch.nn.Module):
    """Takes the place of a HeadRMSNorm: neither normalizes nor gates."""

    def forward(self, o, gate):
        return o.flatten(2)


class RetNetWithoutDecay(RetNet):
    """RetNet that does not forget."""

    def log_decay(self, device):
        return super().log_decay(device) * 0


def plain_gla(attention, **config):
    block = GLA.from_attention(attention, **config)
    block.o_norm = Ungated()
    with torch.no_grad():
        block.gk_proj.get_parameter("1.bias").fill_(1e4)  # a decay of 1
    return block


@pytest.mark.parametrize("bias", [True, False])
def test_gla_without_decay_and_norm_is_the_teachers_linear_attention(bias):
    attention, x = teacher(qkv_bias=bias), inputs(2, 37)
    with torch.no_grad():
        expected = linear_attention_of(attention, x)
        torch.testing.assert_close(plain_gla(attention)(x), expected, rtol=1e-4, atol=1e-4)


def test_retnet_without_decay_and_norm_is_the_teachers_rotated_linear_attention():
    attention, x = teacher(), inputs(2, 37)
    angle = torch.arange(37)[:, None] * 500.0 ** (-torch.arange(0, DIM, 2) / DIM)
    rotation = tuple(torch.cat((f(angle), f(angle)), -1)[None] for f in (torch.cos, torch.sin))
    block = RetNetWithoutDecay.from_attention(attention, expand_v=1, rope_theta=500.0)
    block.o_norm = Ungated()
    with torch.no_grad():
        expected = linear_attention_of(attention, x, rotation)
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
        cache = DictCache()
        parts = [block(x[:, a:b], cache=cache) for a, b in ((0, 30), (30, 31), (31, 37))]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)


@every_block
def test_every_block_projects_to_the_teachers_heads(name):
    attention, x = teacher(), inputs(1, 5)
    block = BLOCKS[name].from_attention(attention, expand_v=1, qkv_bias=True)
    assert (block.num_heads, block.head_dim) == (HEADS, DIM)
    for ours, theirs in zip(block.heads(x), expanded_heads(attention, x)):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(block.o_proj.weight, attention.o_proj.weight)


def test_whole_heads_are_repeated_not_rows():
    attention = teacher()
    k = GLA.from_attention(attention).k_proj.weight.view(HEADS, DIM, HIDDEN)
    kv = attention.k_proj.weight.view(KV_HEADS, DIM, HIDDEN)
    assert all(torch.equal(k[h], kv[h // 3]) for h in range(HEADS))


def test_more_heads_repeat_neighbors_and_share_their_output():
    attention, x = teacher(), inputs(2, 11)
    block = plain_gla(attention, num_heads=2 * HEADS)
    with torch.no_grad():
        torch.testing.assert_close(block(x), linear_attention_of(attention, x), rtol=1e-4, atol=1e-4)
    # Uneven: 6 heads to 9; heads 0, 2 and 4 are repeated, the others are not.
    block = plain_gla(attention, num_heads=9)
    with torch.no_grad():
        torch.testing.assert_close(block(x), linear_attention_of(attention, x), rtol=1e-4, atol=1e-4)


def test_fewer_heads_are_an_even_selection():
    attention = teacher()
    block = GLA.from_attention(attention, num_heads=3)
    old = attention.q_proj.weight.view(HEADS, DIM, HIDDEN)
    assert torch.equal(block.q_proj.weight.view(3, DIM, HIDDEN), old[[0, 2, 4]])
    old = attention.v_proj.weight.view(KV_HEADS, DIM, HIDDEN)
    assert torch.equal(block.v_proj.weight.view(3, DIM, HIDDEN), old[[0, 0, 1]])


@pytest.mark.parametrize(("head_dim", "expand_v"), [(8, 1.5), (12, 2 / 3), (12, 1.25)])
def test_wider_heads_start_with_the_narrow_ones_function(head_dim, expand_v):
    attention, x = teacher(), inputs(2, 11)
    block = plain_gla(attention, head_dim=head_dim, expand_v=expand_v)
    scale = (head_dim / DIM) ** -0.5  # the new block scales its queries by its own size
    with torch.no_grad():
        expected = linear_attention_of(attention, x) * scale
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert block.k_proj.weight.view(HEADS, head_dim, HIDDEN)[:, DIM:].ne(0).all()
    fresh = block.v_proj.weight.view(HEADS, -1, HIDDEN)[:, DIM:]
    assert fresh.ne(0).all()


def test_narrower_heads_keep_the_leading_channels():
    attention = teacher()
    block = GLA.from_attention(attention, head_dim=4, expand_v=1.5)
    assert torch.equal(block.q_proj.weight.view(6, 4, HIDDEN), attention.q_proj.weight.view(6, 8, HIDDEN)[:, :4])
    assert torch.equal(block.q_proj.bias.view(6, 4), attention.q_proj.bias.view(6, 8)[:, :4])
    assert torch.equal(block.o_proj.weight.view(HIDDEN, 6, 6), attention.o_proj.weight.view(HIDDEN, 6, 8)[..., :6])


def test_dropped_parts_are_told_in_one_line(caplog):
    with caplog.at_level(logging.INFO, logger="jetlit.blocks.inheritance"):
        GLA.from_attention(teacher())
        assert not caplog.records
        GLA.from_attention(teacher(output_bias=True, qk_norm=True), qkv_bias=False)
    (record,) = caplog.records
    assert all(text in record.message for text in ("biases of q, k and v", "qkv_bias=True", "bias of o", "norms"))


def test_missing_biases_start_at_zero():
    block = GLA.from_attention(teacher(qkv_bias=False), qkv_bias=True)
    assert all(p.bias.eq(0).all() for p in (block.q_proj, block.k_proj, block.v_proj))


def test_jet_block_keeps_the_released_format_unless_told_otherwise():
    assert BLOCKS["jet"].from_attention(teacher()).q_proj.bias is None
    assert BLOCKS["gla"].from_attention(teacher()).q_proj.bias is not None


@every_block
def test_type_and_device_follow_the_teacher(name):
    block = BLOCKS[name].from_attention(teacher().bfloat16())
    assert {p.dtype for p in block.parameters()} == {torch.bfloat16}
    with torch.device("meta"):
        attention = Attention(HIDDEN, HEADS, KV_HEADS, DIM)
    assert all(p.is_meta for p in BLOCKS[name].from_attention(attention, num_heads=4, head_dim=6).parameters())


@every_block
def test_new_block_remembers_and_can_learn(name):
    torch.manual_seed(0)
    block, x = BLOCKS[name].from_attention(teacher()), inputs(1, 65).requires_grad_()
    (gradient,) = torch.autograd.grad(block(x)[:, -1].square().sum(), x)
    # A token 32 places back still matters: at least a thousandth of the last one.
    assert gradient[0, -33].norm() > 1e-3 * gradient[0, -1].norm()
    optimizer = torch.optim.SGD(block.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        block(x).square().sum().backward()
        optimizer.step()
    # Layers that start at zero and the ones before them wake up after the first step.
    assert not [key for key, p in block.named_parameters() if not p.grad.any()]


def test_other_hidden_size_is_refused():
    with pytest.raises(ValueError, match="hidden size"):
        GLA.from_attention(teacher(), hidden_size=HIDDEN + 2)
