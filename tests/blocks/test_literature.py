"""Each block of the literature against a token loop in float64 written from its paper's equations."""

import math

import pytest
import torch

from tests.blocks.cases import inputs, make

HEADS = 3


class Weights:
    """A block's state dict in float64, by head where asked."""

    def __init__(self, block):
        self.tensors = {name: tensor.double() for name, tensor in block.state_dict().items()}

    def project(self, name, x):
        y = x @ self.tensors[f"{name}.weight"].T
        return y + self.tensors.get(f"{name}.bias", 0)

    def __getitem__(self, name):
        return self.tensors[name]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return torch.log1p(torch.exp(x))


def unit(x):
    return x / math.sqrt(x @ x + 1e-6)


def rms(x, weight):
    return weight * x / math.sqrt(x @ x / len(x) + 1e-5)


def by_head(x):
    return x.view(len(x), HEADS, -1)


def convolved(p, name, x):
    """SiLU of the causal convolution of [T, D]: y_t = Σ_j w_j x_{t-W+1+j} + b."""
    weight = p[f"{name}.weight"][:, 0]
    taps = weight.shape[1]
    rows = torch.stack(
        [sum(weight[:, j] * x[t - taps + 1 + j] for j in range(taps) if t - taps + 1 + j >= 0) for t in range(len(x))]
    )
    return silu(rows + p.tensors.get(f"{name}.bias", 0))


def scan(q, k, v, step):
    """o_t = Sᵀ q_t with S ← step(S, t, h), for every head."""
    out = torch.zeros_like(v)
    for h in range(HEADS):
        state = torch.zeros(k.shape[2], v.shape[2], dtype=torch.float64)
        for t in range(len(q)):
            state = step(state, t, h)
            out[t, h] = state.T @ q[t, h]
    return out


def gated(p, o, gate):
    return torch.stack(
        [
            torch.stack([rms(o[t, h], p["o_norm.weight"]) * silu(gate[t, h]) for h in range(HEADS)])
            for t in range(len(o))
        ]
    )


def retnet(p, x):
    q, k, v = (by_head(p.project(name, x)) for name in ("q_proj", "k_proj", "v_proj"))
    half = q.shape[2] // 2
    turn = torch.arange(len(x))[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = [
        torch.complex(y[..., :half], y[..., half:]) * torch.polar(torch.ones_like(turn), turn)[:, None] for y in (q, k)
    ]
    q, k = (torch.cat((y.real, y.imag), -1) for y in turned)
    o = scan(q, k, v, lambda s, t, h: (1 - 2.0 ** (-5 - h)) * s + torch.outer(k[t, h], v[t, h]))
    return gated(p, o * q.shape[2] ** -0.5, by_head(p.project("g_proj", x)))


def gla(p, x):
    q, k, v = (by_head(p.project(name, x)) for name in ("q_proj", "k_proj", "v_proj"))
    alpha = by_head(sigmoid(p.project("gk_proj.1", p.project("gk_proj.0", x))) ** (1 / 16))
    o = scan(q, k, v, lambda s, t, h: alpha[t, h][:, None] * s + torch.outer(k[t, h], v[t, h]))
    return gated(p, o * q.shape[2] ** -0.5, by_head(p.project("g_proj", x)))


def convolved_heads(p, x):
    return (by_head(convolved(p, f"{n}_conv1d", p.project(f"{n}_proj", x))) for n in "qkv")


def mamba2(p, x):
    q, k, v = convolved_heads(p, x)
    dt = softplus(p.project("dt_proj", x) + p["dt_bias"])
    decay = torch.exp(-torch.exp(p["A_log"]) * dt)
    o = scan(q, k, v, lambda s, t, h: decay[t, h] * s + dt[t, h] * torch.outer(k[t, h], v[t, h]))
    o = (o + p["D"][:, None] * v) * silu(by_head(p.project("g_proj", x)))
    return torch.stack([torch.stack([rms(head, p["o_norm.weight"]) for head in token]) for token in o])


def delta(p, x, alpha):
    q, k, v = convolved_heads(p, x)
    beta, scale = sigmoid(p.project("b_proj", x)), q.shape[2] ** -0.5

    def step(state, t, h):
        key = unit(k[t, h])
        erase = torch.eye(len(key), dtype=torch.float64) - beta[t, h] * torch.outer(key, key)
        return alpha[t, h] * erase @ state + beta[t, h] * torch.outer(key, v[t, h])

    queries = torch.stack([torch.stack([unit(head) for head in token]) for token in q])
    return scan(queries, k, v, step) * scale


def delta_net(p, x):
    o = delta(p, x, torch.ones(len(x), HEADS))
    return torch.stack([torch.stack([rms(head, p["o_norm.weight"]) for head in token]) for token in o])


def gated_delta_net(p, x):
    alpha = torch.exp(-torch.exp(p["A_log"]) * softplus(p.project("a_proj", x) + p["dt_bias"]))
    return gated(p, delta(p, x, alpha), by_head(p.project("g_proj", x)))


def rwkv7(p, x):
    """Equations 3 to 21 of the paper, without the value residual; its state transposed."""
    before = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
    x_r, x_w, x_k, x_v, x_a, x_g = (x + (before - x) * mu for mu in p["x_mix"])
    r, k, v = (by_head(p.project(name, y)) for name, y in (("q_proj", x_r), ("k_proj", x_k), ("v_proj", x_v)))
    d = p.project("w_lora.up", torch.tanh(p.project("w_lora.down", x_w)))
    w = by_head(torch.exp(-math.exp(-0.5) * sigmoid(d)))
    a = by_head(sigmoid(p.project("a_lora.up", p.project("a_lora.down", x_a))))
    g = by_head(p.project("g_lora.up", sigmoid(p.project("g_lora.down", x_g))))
    kappa = k * p["k_k"].view(HEADS, -1)
    kappa = kappa / kappa.norm(dim=-1, keepdim=True)
    key = k * (1 + p["k_a"].view(HEADS, -1) * (a - 1))

    def step(state, t, h):
        # The paper's row-vector form on Sᵀ: Sᵀ (diag(w) - κ̂ᵀ (a ⊙ κ̂)) + vᵀ k̃.
        change = torch.diag(w[t, h]) - torch.outer(kappa[t, h], a[t, h] * kappa[t, h])
        return (state.T @ change + torch.outer(v[t, h], key[t, h])).T

    o = scan(r, k, v, step)
    size = v.shape[2]
    centered = o - o.mean(-1, keepdim=True)
    o = centered / torch.sqrt((centered**2).mean(-1, keepdim=True) + size * 1e-5)
    o = o * p["g_norm.weight"].view(HEADS, size) + p["g_norm.bias"].view(HEADS, size)
    bonus = (r * p["r_k"] * key).sum(-1, keepdim=True) * v
    return g * (o + bonus)


@pytest.mark.parametrize(
    "equations", [retnet, mamba2, gla, delta_net, gated_delta_net, rwkv7], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_block_is_its_papers(equations, qkv_bias):
    block, x = make(equations.__name__, qkv_bias=qkv_bias), inputs(1, 41, dtype=torch.float64)
    p = Weights(block)
    expected = p.project("o_proj", equations(p, x[0]).flatten(1))
    with torch.no_grad():
        torch.testing.assert_close(block(x.float())[0].double(), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(block.double()(x)[0], expected, rtol=1e-6, atol=1e-7)
