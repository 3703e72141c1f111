"""jet_decode_step against the JetBlock's equations written out for one head and one token in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from jetlit_kernels import dynamic_conv, jet_decode_step
from jetlit_kernels.gates import log_decay_and_beta

from tests.kernels.backends import BACKENDS, assert_near

NAMES = [
    "q",
    "k",
    "v",
    "gate",
    "beta_logits",
    "a",
    "conv_kernels",
    "A_log",
    "dt_bias",
    "norm_weight",
    "conv_state",
    "recurrent_state",
]


def draw(batch, heads, key_dim, value_dim, taps, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "q": randn(batch, heads, key_dim),
        "k": randn(batch, heads, key_dim),
        "v": randn(batch, heads, value_dim),
        "gate": randn(batch, heads, value_dim),
        "beta_logits": randn(batch, heads),
        "a": randn(batch, heads),
        "conv_kernels": randn(batch, heads * value_dim, taps),
        "A_log": randn(heads),
        "dt_bias": randn(heads),
        "norm_weight": randn(value_dim),
        "conv_state": randn(batch, heads * value_dim, taps),
        "recurrent_state": randn(batch, heads, key_dim, value_dim),
    }
    return {name: x.to(dtype) for name, x in inputs.items()}


def definition(inputs, eps=1e-5):
    """Compute steps 1 to 5 for every sequence and head in turn; return o and both new states."""
    x = {name: tensor.double() for name, tensor in inputs.items()}
    batch, heads, key_dim = x["q"].shape
    value_dim, taps = x["v"].shape[-1], x["conv_kernels"].shape[-1]
    conv_state = torch.cat([x["conv_state"][..., 1:], x["v"].reshape(batch, -1, 1)], -1)
    state, out = x["recurrent_state"].clone(), torch.empty_like(x["v"])
    for b in range(batch):
        for h in range(heads):
            channels = slice(h * value_dim, (h + 1) * value_dim)
            value = F.silu(sum(x["conv_kernels"][b, channels, j] * conv_state[b, channels, j] for j in range(taps)))
            query, key = F.silu(x["q"][b, h]), F.silu(x["k"][b, h])
            query = query / (query.dot(query) + 1e-6).sqrt() / math.sqrt(key_dim)
            key = key / (key.dot(key) + 1e-6).sqrt()
            decay = torch.exp(-x["A_log"][h].exp() * torch.log1p((x["a"][b, h] + x["dt_bias"][h]).exp()))
            matrix = decay * state[b, h]
            matrix = matrix + torch.outer(key, torch.sigmoid(x["beta_logits"][b, h]) * (value - matrix.T @ key))
            state[b, h] = matrix
            o = matrix.T @ query
            out[b, h] = o / (o.pow(2).mean() + eps).sqrt() * x["norm_weight"] * F.silu(x["gate"][b, h])
    return out, conv_state, state


@BACKENDS
@pytest.mark.parametrize(("key_dim", "value_dim", "taps"), [(4, 6, 4), (3, 130, 2), (8, 65, 8), (12, 33, 5)])
def test_matches_definition(key_dim, value_dim, taps, backend, dtype, tolerance):
    inputs = draw(3, 2, key_dim, value_dim, taps, dtype)
    expected = definition(inputs)
    out = jet_decode_step(**inputs, backend=backend)
    assert_near((out, inputs["conv_state"], inputs["recurrent_state"]), expected, tolerance)


@BACKENDS
def test_accepts_views_of_one_merged_projection(backend, dtype, tolerance):
    inputs = draw(3, 2, 4, 6, 4, dtype)
    expected = definition(inputs)
    merged = torch.cat([inputs[name].flatten(1) for name in NAMES[:6]], dim=1)
    offset = 0
    for name in NAMES[:6]:
        width = inputs[name][0].numel()
        inputs[name] = merged[:, offset : offset + width].unflatten(1, inputs[name].shape[1:])
        offset += width
    assert_near([jet_decode_step(**inputs, backend=backend)], expected[:1], tolerance)


def test_convolution_agrees_with_the_whole_sequence():
    """The conv state that dynamic_conv hands over is the one that the step takes, and step by step equals one pass."""
    heads, value_dim, taps, length, rank = 2, 3, 4, 9, 5
    channels = heads * value_dim
    torch.manual_seed(0)
    v, hidden = torch.randn(1, length, channels).double(), torch.randn(1, length, rank).double()
    weight, bias = torch.randn(channels * taps, rank).double(), torch.randn(channels * taps).double()
    whole, final = dynamic_conv(v, hidden, weight, bias, output_final_state=True)
    _, conv_state = dynamic_conv(v[:, :5], hidden[:, :5], weight, bias, output_final_state=True)
    inputs = draw(1, heads, 4, value_dim, taps)
    for t in range(5, length):
        # From a state of zero with beta = sigmoid(100) = 1 the step leaves S = k ⊗ value.
        inputs |= {
            "v": v[:, t].view(1, heads, value_dim),
            "conv_kernels": (hidden[:, t] @ weight.T + bias).view(1, channels, taps),
            "conv_state": conv_state,
            "recurrent_state": torch.zeros(1, heads, 4, value_dim, dtype=torch.float64),
            "beta_logits": torch.full((1, heads), 100.0, dtype=torch.float64),
        }
        jet_decode_step(**inputs)
        key = F.silu(inputs["k"])
        key = key / (key.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        written = torch.einsum("bhkv,bhk->bhv", inputs["recurrent_state"], key / key.square().sum(-1, keepdim=True))
        torch.testing.assert_close(written.flatten(1), whole[:, t])
    torch.testing.assert_close(conv_state, final)


def test_gates_are_float32_and_decay_never_grows():
    g, beta = log_decay_and_beta(
        torch.tensor([[-100.0, 100.0]]).bfloat16(),
        torch.tensor([[-100.0, 100.0]]).bfloat16(),
        torch.tensor([-3.0, 2.7]),
        torch.tensor([0.0, 1.0]),
    )
    assert g.dtype == beta.dtype == torch.float32
    assert (g <= 0).all() and g.isfinite().all()
    torch.testing.assert_close(beta, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(g[0, 1], torch.tensor(-math.exp(2.7) * 101.0))


@pytest.mark.parametrize("name", NAMES[1:])
def test_refuses_a_wrong_shape_by_name(name):
    inputs = draw(2, 2, 4, 6, 4, torch.float32)
    inputs[name] = inputs[name][..., :-1] if name not in ("v", "conv_kernels") else inputs[name][:1]
    with pytest.raises(ValueError, match="jet_decode_step needs"):
        jet_decode_step(**inputs)


def test_refuses_a_state_it_cannot_update():
    inputs = draw(2, 2, 4, 6, 4)
    inputs["recurrent_state"] = inputs["recurrent_state"].transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match="in place"):
        jet_decode_step(**inputs)
