"""window_attention against softmax attention of one token at a time in float64."""

import pytest
import torch
from jetlit_kernels import window_attention

from tests.kernels.backends import BACKENDS, assert_near


def definition(query, key, value, window, scale):
    output = torch.empty(query.shape, dtype=torch.float64, device=query.device)
    past, group = key.shape[2] - query.shape[2], query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, 1) for x in (key, value))
    for t in range(query.shape[2]):
        seen = slice(max(0, past + t - window + 1), past + t + 1)
        scores = torch.einsum("bhd,bhsd->bhs", query[:, :, t].double(), key[:, :, seen]) * scale
        output[:, :, t] = torch.einsum("bhs,bhsd->bhd", torch.softmax(scores, -1), value[:, :, seen])
    return output


def draw(batch, heads, groups, length, slots, size, dtype, device="cpu"):
    torch.manual_seed(length)
    query = torch.randn(batch, length, heads, size, device=device, dtype=dtype).transpose(1, 2)
    key, value = (torch.randn(batch, groups, slots, size, device=device, dtype=dtype) for _ in range(2))
    return query, key, value


@BACKENDS
@pytest.mark.parametrize(
    ("heads", "groups", "length", "slots", "window", "size"),
    [
        (4, 2, 70, 70, 9, 16),
        (3, 1, 1, 40, 33, 20),
        (2, 2, 33, 100, 64, 16),
        (4, 1, 50, 65, 1, 24),
        (2, 1, 40, 60, 999, 16),
    ],
)
def test_matches_definition(heads, groups, length, slots, window, size, backend, dtype, tolerance):
    query, key, value = draw(2, heads, groups, length, slots, size, dtype)
    actual = window_attention(query, key, value, window, scale=0.3, backend=backend)
    assert_near([actual], [definition(query, key, value, window, 0.3)], tolerance)


@pytest.mark.parametrize(("slots", "window"), [(4, 3), (8, 0)])
def test_refuses_too_few_keys_and_an_empty_window(slots, window):
    query, key, value = draw(1, 4, 2, 8, slots, 8, torch.float32)
    with pytest.raises(ValueError, match="window of at least 1"):
        window_attention(query, key, value, window)
