"""Attention written token by token in float64, independent of the library's."""

import math

import torch

from jetlit.blocks.attention import Attention


def rotate(x: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    """Rotates one head's vector [D], pairs being (i, i + D/2)."""
    half = x.shape[0] // 2
    out = x.clone()
    for i in range(half):
        angle = position * theta ** (-2 * i / (2 * half))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def rms(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    if isinstance(norm, torch.nn.Identity):
        return x
    return x / torch.sqrt(x.square().mean() + norm.eps) * norm.weight.double()


def reference_attention(
    block: Attention, hidden: torch.Tensor, theta: float = 10000.0, starts: tuple[int, ...] = (0,)
) -> torch.Tensor:
    """Run the block on [T, hidden]; `starts` are the first tokens of packed sequences."""
    hidden = hidden.double()

    def project(layer: torch.nn.Linear) -> torch.Tensor:
        out = hidden @ layer.weight.double().T
        return out + layer.bias.double() if layer.bias is not None else out

    length, size = hidden.shape[0], block.head_dim
    q = project(block.q_proj).view(length, block.num_heads, size)
    k = project(block.k_proj).view(length, block.num_kv_heads, size)
    v = project(block.v_proj).view(length, block.num_kv_heads, size)
    rows = []
    for t in range(length):
        start = max(s for s in starts if s <= t)
        first = start if block.window_size is None else max(start, t - block.window_size + 1)
        heads = []
        for head in range(block.num_heads):
            shared = head // (block.num_heads // block.num_kv_heads)
            query = rotate(rms(q[t, head], block.q_norm), t - start, theta)
            scores = torch.stack(
                [
                    query @ rotate(rms(k[s, shared], block.k_norm), s - start, theta) / math.sqrt(size)
                    for s in range(first, t + 1)
                ]
            )
            heads.append(torch.softmax(scores, 0) @ v[first : t + 1, shared])
        rows.append(torch.cat(heads))
    out = torch.stack(rows) @ block.o_proj.weight.double().T
    return out + block.o_proj.bias.double() if block.o_proj.bias is not None else out


def rotary(length: int, size: int, theta: float = 10000.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cos, sin), each [1, length, size], as the model makes them."""
    angles = torch.arange(length)[:, None] * theta ** (-torch.arange(0, size, 2) / size)
    both = torch.cat((angles, angles), -1)[None]
    return both.cos(), both.sin()
