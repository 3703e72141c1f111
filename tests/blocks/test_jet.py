"""JetBlock against a token loop in float64 written from the released checkpoint's description."""

import math

import pytest
import torch

from jetlit.blocks.jet import JetBlock
from tests.blocks.cases import HIDDEN, DictCache, inputs, make


def by_hand(block, x):
    """Compute the released block's steps 1 to 5, one token, head and channel at a time, from its state dict alone."""
    p = {name: tensor.double() for name, tensor in block.state_dict().items()}
    heads = p["A_log"].numel()
    value_size = p["o_norm.weight"].numel()
    taps = p["dynamic_conv1d.kernel_generator.w2.bias"].numel() // (heads * value_size)

    def silu(t):
        return t / (1 + torch.exp(-t))

    outputs = []
    for sequence in x.double():
        state = [torch.zeros(p["q_proj.weight"].shape[0] // heads, value_size, dtype=torch.float64)] * heads
        values = [torch.zeros(heads * value_size, dtype=torch.float64)] * taps
        for token in sequence:
            q = silu(p["q_proj.weight"] @ token).view(heads, -1)
            k = silu(p["k_proj.weight"] @ token).view(heads, -1)
            values = [*values[1:], p["v_proj.weight"] @ token]
            hidden = silu(p["dynamic_conv1d.kernel_generator.w1.weight"] @ token)
            w = p["dynamic_conv1d.kernel_generator.w2.weight"] @ hidden + p["dynamic_conv1d.kernel_generator.w2.bias"]
            v = silu(sum(w[j::taps] * values[j] for j in range(taps))).view(heads, -1)
            beta = 1 / (1 + torch.exp(-(p["b_proj.weight"] @ token)))
            log_decay = -torch.exp(p["A_log"]) * torch.log1p(torch.exp(p["a_proj.weight"] @ token + p["dt_bias"]))
            gate = (p["g_proj.weight"] @ token).view(heads, -1)
            read = []
            for h in range(heads):
                key = k[h] / math.sqrt(k[h] @ k[h] + 1e-6)
                query = q[h] / math.sqrt(q[h] @ q[h] + 1e-6) / math.sqrt(len(q[h]))
                state[h] = math.exp(log_decay[h]) * state[h]
                state[h] = state[h] + torch.outer(key, beta[h] * (v[h] - state[h].T @ key))
                o = state[h].T @ query
                o = p["o_norm.weight"] * o / math.sqrt(o @ o / value_size + 1e-5)
                read.append(o * silu(gate[h]))
            outputs.append(p["o_proj.weight"] @ torch.cat(read))
    return torch.stack(outputs).view(*x.shape)


@pytest.mark.parametrize("taps", [2, 4, 8])
def test_block_is_the_released_one(taps):
    block, x = make("jet", conv_size=taps, norm_eps="1e-5", dconv_generator_reduction=4), inputs(2, 71)
    expected = by_hand(block, x)
    with torch.no_grad():
        torch.testing.assert_close(block(x).double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block.double()(x.double()), expected, rtol=1e-9, atol=1e-10)


def test_decoding_is_the_released_block():
    block, x = make("jet"), inputs(2, 9)
    cache = DictCache()
    with torch.no_grad():
        tokens = torch.cat([block(x[:, t : t + 1], cache=cache) for t in range(9)], 1)
    torch.testing.assert_close(tokens.double(), by_hand(block, x), rtol=1e-4, atol=1e-5)


def test_decoding_updates_the_cache_where_it_lies():
    block, x = make("jet"), inputs(2, 4)
    cache = DictCache()
    with torch.no_grad():
        block(x, cache=cache)
        addresses = {name: tensor.data_ptr() for name, tensor in cache.tensors.items()}
        before = {name: tensor.clone() for name, tensor in cache.tensors.items()}
        block(x[:, :1], cache=cache)
    assert addresses == {name: tensor.data_ptr() for name, tensor in cache.tensors.items()}
    assert all(not torch.equal(before[name], tensor) for name, tensor in cache.tensors.items())


def test_names_and_shapes_of_the_released_2b():
    with torch.device("meta"):
        block = JetBlock(
            1536,
            **{
                "mode": "chunk",
                "num_heads": 12,
                "head_dim": 96,
                "expand_v": 2.6666666667,
                "conv_size": 4,
                "dconv_generator_reduction": 8,
                "norm_eps": "1e-5",
                "dconv_implementation": "triton",
            },
        )
    assert block.norm_eps == 1e-5
    assert {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()} == {
        "q_proj.weight": (1152, 1536),
        "k_proj.weight": (1152, 1536),
        "v_proj.weight": (3072, 1536),
        "g_proj.weight": (3072, 1536),
        "a_proj.weight": (12, 1536),
        "b_proj.weight": (12, 1536),
        "A_log": (12,),
        "dt_bias": (12,),
        "dynamic_conv1d.kernel_generator.w1.weight": (384, 1536),
        "dynamic_conv1d.kernel_generator.w2.weight": (12288, 384),
        "dynamic_conv1d.kernel_generator.w2.bias": (12288,),
        "o_norm.weight": (256,),
        "o_proj.weight": (1536, 3072),
    }
    # 154 MB of cache at 64K for the paper's 2B is mostly attention; a layer's state is 12 · 96 · 256 floats and the
    # convolution's four rows.
    assert block.state_bytes(1, 65536, torch.bfloat16) == 12 * 96 * 256 * 4 + 3072 * 4 * 2


def test_initialization():
    torch.manual_seed(0)
    block = JetBlock(HIDDEN, num_heads=400, head_dim=2, expand_v=2)
    generator = block.dynamic_conv1d.kernel_generator
    assert generator.w1.weight.eq(0).all() and generator.w2.weight.eq(0).all()
    assert generator.w2.bias.std().item() == pytest.approx(0.02, rel=0.05)
    a = block.A_log.exp()
    assert 0 < a.min() < 1 and 15 < a.max() <= 16 and a.mean().item() == pytest.approx(8, rel=0.1)
    dt = torch.nn.functional.softplus(block.dt_bias)
    assert 1e-3 <= dt.min() < 2e-3 and 0.05 < dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx((math.log(1e-3) + math.log(0.1)) / 2, rel=0.05)


def test_convolution_is_static_at_first():
    torch.manual_seed(0)
    block, x = JetBlock(HIDDEN, num_heads=2, head_dim=4), inputs(1, 20)
    w2 = block.dynamic_conv1d.kernel_generator.w2
    kernels = w2.bias.detach().view(block.value_dim, 4)
    with torch.no_grad():
        v = block.v_proj(x)
        padded = torch.nn.functional.pad(v, (0, 0, 3, 0))
        static = sum(kernels[:, j] * padded[:, j : j + 20] for j in range(4))
        seen = []
        block.dynamic_conv1d.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
        block(x)
    torch.testing.assert_close(seen[0], torch.nn.functional.silu(static))
