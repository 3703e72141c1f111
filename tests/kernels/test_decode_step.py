"""recurrent_step and jet_decode_step against equations written out for one head and one token in float64."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from jetlit_kernels import dynamic_conv, jet_decode_step, recurrent_step
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
    with pytest.raises(ValueError, match="recurrent_step needs"):
        jet_decode_step(**inputs)


def test_refuses_a_state_it_cannot_update():
    inputs = draw(2, 2, 4, 6, 4)
    inputs["recurrent_state"] = inputs["recurrent_state"].transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match="in place"):
        jet_decode_step(**inputs)


def unit(x):
    return x / (x.dot(x) + 1e-6).sqrt()


def step_definition(x):
    """Compute the docstring of recurrent_step for every sequence and head in turn; return o and the states by name."""
    states = {name: x[name].double().clone() for name in STATES if name in x}
    x = {name: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for name, t in x.items()}
    batch, heads, key_dim = x["q"].shape
    out = torch.empty_like(x["v"])
    for b, h in itertools.product(range(batch), range(heads)):
        slot = int(x["slots"][b]) if "slots" in x else b

        def convolved(name, b=b, h=h, slot=slot):
            if f"{name}_window" not in x:
                return x[name][b, h]
            size = x[name].shape[-1]
            channels = slice(h * size, (h + 1) * size)
            window = torch.cat([states[f"{name}_window"][slot, channels, 1:], x[name][b, h][:, None]], -1)
            states[f"{name}_window"][slot, channels] = window
            y = (x[f"{name}_kernels"][b, channels] * window).sum(-1)
            return y + x[f"{name}_bias"][channels] if f"{name}_bias" in x else y

        query, key, value = convolved("q"), convolved("k"), convolved("v")
        value = F.silu(value) if "v_window" in x else value
        if x.get("qk_silu"):
            query, key = F.silu(query), F.silu(key)
        if x.get("qk_l2norm"):
            query, key = unit(query), unit(key)
        matrix, beta = states["recurrent_state"][slot, h], 1.0
        if "a" in x:
            beta = torch.log1p((x["a"][b, h] + x["dt_bias"][h]).exp())
            matrix = matrix * torch.exp(-x["A_log"][h].exp() * beta)
        elif "log_decay" in x:
            matrix = matrix * x["log_decay"][b, h].exp().reshape(-1, 1)
        if "beta_logits" in x:
            beta = torch.sigmoid(x["beta_logits"][b, h])
        old = matrix.T @ key if x.get("delta_rule") else 0.0
        matrix = matrix + torch.outer(key, beta * (value - old))
        states["recurrent_state"][slot, h] = matrix
        o = matrix.T @ query * x.get("scale", key_dim**-0.5)
        o = o + x["skip_weight"][h] * value if "skip_weight" in x else o
        gate = F.silu(x["gate"][b, h]) if "gate" in x else 1.0
        first = x.get("norm_before_gate", True)
        o = o if first else o * gate
        o = o / (o.pow(2).mean() + 1e-5).sqrt() * x["norm_weight"]
        out[b, h] = o * gate if first else o
    return out, states


STATES = ("recurrent_state", "q_window", "k_window", "v_window")
# What each of the blocks asks for: tensors by name, and switches.
BLOCKS = {
    "gated_delta_net": (
        ["gate", "beta_logits", "a", "q_window", "k_window", "v_window"],
        {"delta_rule": True, "qk_silu": True, "qk_l2norm": True},
    ),
    "delta_net": (
        ["beta_logits", "q_window", "k_window", "v_window"],
        {"delta_rule": True, "qk_silu": True, "qk_l2norm": True},
    ),
    "mamba2": (
        ["gate", "a", "skip_weight", "q_window", "k_window", "v_window", "q_bias", "k_bias", "v_bias"],
        {"qk_silu": True, "norm_before_gate": False, "scale": 1.0},
    ),
    "gla": (["gate", "decay of a row"], {}),
    "retnet": (["gate", "decay of a head"], {}),
    "nothing": ([], {}),
}


def draw_step(wanted, switches, with_slots, dtype, batch=3, heads=2, key_dim=5, value_dim=70, taps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    states, sizes = batch + 4 if with_slots else batch, {"q": key_dim, "k": key_dim, "v": value_dim}
    x = {name: randn(batch, heads, size) for name, size in sizes.items()}
    x |= {"recurrent_state": randn(states, heads, key_dim, value_dim), "norm_weight": randn(value_dim)}
    for name, size in sizes.items():
        if f"{name}_window" in wanted:
            shared = randn(heads * size, taps).expand(batch, -1, -1)
            x |= {f"{name}_window": randn(states, heads * size, taps), f"{name}_kernels": shared}
        if f"{name}_bias" in wanted:
            x[f"{name}_bias"] = randn(heads * size)
    if "a" in wanted:
        x |= {"a": randn(batch, heads), "A_log": randn(heads), "dt_bias": randn(heads)}
    if "decay of a row" in wanted:
        x["log_decay"] = -randn(batch, heads, key_dim).abs()
    if "decay of a head" in wanted:
        x["log_decay"] = -randn(heads).abs().expand(batch, -1)
    shapes = {"gate": (batch, heads, value_dim), "beta_logits": (batch, heads), "skip_weight": (heads,)}
    x |= {name: randn(*shape) for name, shape in shapes.items() if name in wanted}
    if with_slots:
        x["slots"] = torch.tensor([5, 0, 3])
    return x | switches


@BACKENDS
@pytest.mark.parametrize("with_slots", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_matches_its_definition(block, with_slots, backend, dtype, tolerance):
    x = draw_step(*BLOCKS[block], with_slots, dtype)
    expected, states = step_definition(x)
    actual = recurrent_step(**x, backend=backend)
    assert_near([actual, *(x[name] for name in states)], [expected, *states.values()], tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_window": None}, "both v_window and v_kernels"),
        ({"A_log": None}, "a, A_log and dt_bias"),
        ({"log_decay": torch.zeros(3, 2)}, "a, A_log and dt_bias"),
        ({"recurrent_state": torch.zeros(7, 2, 5, 70)}, "slots"),
    ],
)
def test_refuses_what_does_not_belong_together(change, message):
    x = draw_step(*BLOCKS["gated_delta_net"], False, torch.float32) | change
    if "recurrent_state" in change:
        x = {name: value for name, value in x.items() if not name.endswith(("_window", "_kernels"))}
    with pytest.raises(ValueError, match=message):
        recurrent_step(**x)
