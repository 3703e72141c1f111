"""The contract that every linear block keeps, whatever its recurrence."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlit.blocks import BLOCKS, build_block, check_block_config, get_block
from jetlit.errors import UserError
from tests.blocks.cases import HIDDEN, LINEAR, DictCache, assert_agree, inputs, make

every_block = pytest.mark.parametrize("name", LINEAR)


def test_registry_has_the_blocks_of_the_paper():
    assert set(BLOCKS) >= {"attn", "swa", "retnet", "mamba2", "gla", "delta_net", "gated_delta_net", "rwkv7", "jet"}


@every_block
def test_chunks_agree_with_token_by_token(name):
    block, x = make(name), inputs(2, 133)
    with torch.no_grad():
        whole, cache = block(x), DictCache()
        tokens = torch.cat([block(x[:, t : t + 1], cache=cache) for t in range(x.shape[1])], 1)
    assert_agree(tokens, whole)


@settings(max_examples=40)
@given(
    name=st.sampled_from(LINEAR),
    cuts=st.lists(st.integers(1, 40), max_size=5),
    tail=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_any_split_of_the_prefill_and_decoding_agree_with_one_pass(name, cuts, tail, seed):
    block, x = make(name, seed, num_heads=2, head_dim=4), inputs(2, 41 + tail, seed=seed)
    bounds = sorted({0, 41, *cuts, *range(41, 42 + tail)})
    cache = DictCache()
    with torch.no_grad():
        parts = [block(x[:, a:b], cache=cache) for a, b in itertools.pairwise(bounds)]
        assert_agree(torch.cat(parts, 1), block(x))


@every_block
def test_no_output_sees_a_later_token(name):
    block, x = make(name, dtype=torch.float64), inputs(1, 70, dtype=torch.float64).requires_grad_()
    seen = 37
    (gradient,) = torch.autograd.grad(block(x)[:, seen].square().sum(), x)
    assert gradient[:, seen + 1 :].eq(0).all()
    assert gradient[:, seen].ne(0).any() and gradient[:, 0].ne(0).any()


@every_block
def test_packed_sequences_are_separate(name):
    block, lengths = make(name), (1, 66, 3, 17)
    x = inputs(1, sum(lengths))
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    packed = DictCache()
    with torch.no_grad():
        together = block(x, cu_seqlens=bounds, cache=packed)
        for n, (a, b) in enumerate(itertools.pairwise(bounds)):
            alone = DictCache()
            assert_agree(together[:, a:b], block(x[:, a:b], cache=alone))
            for key, tensor in alone.tensors.items():
                assert_agree(packed.tensors[key][n : n + 1], tensor)


@every_block
def test_packed_sequences_continue_from_carried_state(name):
    block, x = make(name), inputs(2, 20)
    cache = DictCache()
    with torch.no_grad():
        whole = block(x)
        block(x[:, :9], cache=cache)
        # Row 0 goes on for 4 tokens, row 1 for 11.
        out = block(torch.cat((x[:1, 9:13], x[1:, 9:]), 1), cache=cache, cu_seqlens=torch.tensor([0, 4, 15]))
        assert_agree(out[0, :4], whole[0, 9:13])
        assert_agree(out[0, 4:], whole[1, 9:])
        more = block(x[:1, 13:14].expand(2, -1, -1), cache=cache)
        assert_agree(more[0, 0], whole[0, 13])


@every_block
def test_padding_touches_neither_state_nor_output(name):
    block, x = make(name), inputs(3, 30)
    mask = torch.ones(3, 30, dtype=torch.long)
    mask[0, :11], mask[1, 19:] = 0, 0
    real = [x[:1, 11:], x[1:2, :19], x[2:]]
    padded_cache, step = DictCache(), inputs(3, 1, seed=5)
    with torch.no_grad():
        padded = block(x, attention_mask=mask, cache=padded_cache)
        noise = block(x + 9 * (1 - mask)[..., None], attention_mask=mask)
        decoded = block(step, attention_mask=torch.cat((mask, torch.ones(3, 1)), 1), cache=padded_cache)
        assert padded[mask == 0].eq(0).all()
        assert torch.equal(noise, padded)
        for row, sequence in enumerate(real):
            cache = DictCache()
            alone = block(sequence, cache=cache)
            assert_agree(padded[row][mask[row] == 1], alone[0])
            alone = block(step[row : row + 1], cache=cache)
            assert_agree(decoded[row], alone[0])


@every_block
def test_chunk_in_which_a_row_is_all_padding_keeps_its_state(name):
    block, x = make(name), inputs(2, 12)
    mask = torch.ones(2, 12)
    mask[0, :8] = 0
    cache = DictCache()
    with torch.no_grad():
        whole = block(x, attention_mask=mask)
        parts = [block(x[:, a : a + 4], attention_mask=mask[:, : a + 4], cache=cache) for a in (0, 4, 8)]
        assert_agree(torch.cat(parts, 1), whole)
        before = {key: tensor.clone() for key, tensor in cache.tensors.items()}
        assert block(x[:, :3], attention_mask=torch.zeros(2, 3), cache=cache).eq(0).all()
    assert all(torch.equal(before[key], tensor) for key, tensor in cache.tensors.items())


@every_block
def test_gradients_of_packed_and_padded_batches(name):
    block, x = make(name, dtype=torch.float64), inputs(2, 9, dtype=torch.float64)
    mask = torch.ones(2, 9)
    mask[1, 6:] = 0

    def gradients(loss):
        return torch.autograd.grad(loss, list(block.parameters()))

    apart = gradients(block(x[:1]).square().sum() + block(x[1:, :6]).square().sum())
    torch.testing.assert_close(gradients(block(x, attention_mask=mask).square().sum()), apart)
    packed = block(torch.cat((x[:1], x[1:, :6]), 1), cu_seqlens=torch.tensor([0, 9, 15]))
    torch.testing.assert_close(gradients(packed.square().sum()), apart)


@every_block
def test_every_parameter_has_a_gradient(name):
    block = make(name)
    block(inputs(2, 12)).square().sum().backward()
    assert not [key for key, p in block.named_parameters() if p.grad is None or not p.grad.any()]


@every_block
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_bytes_are_what_the_cache_holds(name, dtype):
    block, cache = make(name, dtype=dtype), DictCache()
    with torch.no_grad():
        block(inputs(3, 5, dtype=dtype), cache=cache)
    assert block.state_bytes(3, 4096, dtype) == sum(tensor.nbytes for tensor in cache.tensors.values())
    specs = block.state_specs()
    assert {key: tuple(t.shape[1:]) for key, t in cache.tensors.items()} == {k: s.shape for k, s in specs.items()}
    assert all(t.dtype == (specs[key].dtype or dtype) for key, t in cache.tensors.items())


@every_block
def test_bfloat16_and_autocast_stay_near_float32(name):
    block, x = make(name), inputs(2, 40)
    with torch.no_grad():
        exact = block(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = block(x)
        low = make(name, dtype=torch.bfloat16)(x.bfloat16())
    assert low.dtype == torch.bfloat16
    for other in (mixed, low):
        assert (other.float() - exact).norm() < 0.05 * exact.norm()


@every_block
def test_numbers_do_not_overflow(name):
    with torch.no_grad():
        assert make(name)(100 * inputs(1, 80)).isfinite().all()


@every_block
def test_decays_and_gates_are_spared_weight_decay(name):
    flagged = {key for key, p in make(name).named_parameters() if getattr(p, "_no_weight_decay", False)}
    expected = {
        "gla": {"gk_proj.1.bias"},
        "mamba2": {"A_log", "dt_bias", "D"},
        "gated_delta_net": {"A_log", "dt_bias"},
        "jet": {"A_log", "dt_bias"},
        "rwkv7": {"x_mix", "k_k", "k_a", "r_k", "w_lora.up.bias", "a_lora.up.bias"},
    }
    assert flagged == expected.get(name, set())


@every_block
def test_meta_device_allocates_nothing(name):
    with torch.device("meta"):
        block = BLOCKS[name](hidden_size=1536, num_heads=12, head_dim=96)
    assert all(p.is_meta for p in block.parameters())


@every_block
def test_size_of_values_survives_rounding(name):
    assert make(name, num_heads=3, head_dim=6, expand_v=7 / 6).value_head_dim == 7


def test_released_epsilon_is_a_string():
    assert make("gla", norm_eps="1e-5").norm_eps == 1e-5


def test_mask_and_bounds_together_are_refused():
    with pytest.raises(ValueError, match="not both"):
        make("gla")(inputs(1, 4), attention_mask=torch.ones(1, 4), cu_seqlens=torch.tensor([0, 4]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "glaa"}, "no block 'glaa'.*gla"),
        ({"name": "gla", "num_heads": 2, "head_dim": 4, "expnd_v": 2}, "no setting 'expnd_v'; it has .*expand_v"),
        ({"name": "gla", "num_heads": 2}, "needs 'head_dim'"),
        ({"name": "gla", "num_heads": 0, "head_dim": 4}, "positive sizes"),
        ({"name": "gla", "num_heads": 2, "head_dim": 4, "expand_v": 0.1}, "value size 0"),
        ({"name": "retnet", "num_heads": 2, "head_dim": 5}, "even"),
        ({"name": "delta_net", "num_heads": 2, "head_dim": 4, "conv_size": 1}, "conv_size of at least 2"),
        ({"name": "jet", "num_heads": 2, "head_dim": 4, "conv_size": 9}, "from 2 to 8"),
        ({"name": "jet", "num_heads": 2, "head_dim": 4, "dconv_generator_reduction": 99}, "from 1 to 16"),
    ],
)
def test_bad_configurations_are_told_in_a_sentence(config, message):
    with pytest.raises(UserError, match=message):
        build_block(hidden_size=HIDDEN, **config)


def test_partial_configuration_may_leave_out_sizes():
    check_block_config("gla", {"gate_rank": 4}, partial=True)
    assert get_block("gla") is BLOCKS["gla"]
