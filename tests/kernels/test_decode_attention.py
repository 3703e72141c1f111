"""decode_attention against softmax attention written out in float64."""

import pytest
import torch
from jetlit_kernels import decode_attention

from tests.kernels.backends import BACKENDS, assert_near


def definition(query, key, value, seen, scale):
    group = query.shape[1] // key.shape[1]
    output = torch.empty(query.shape, dtype=torch.float64)
    for b in range(query.shape[0]):
        for head in range(query.shape[1]):
            keys, values = (x[b, head // group, :seen].double() for x in (key, value))
            output[b, head] = torch.softmax(keys @ query[b, head].double() * scale, 0) @ values
    return output


def draw(batch, heads, kv_heads, slots, size, dtype):
    torch.manual_seed(slots)
    query = torch.randn(batch, heads, size, dtype=dtype)
    key, value = (torch.randn(batch, kv_heads, slots, size, dtype=dtype) for _ in range(2))
    return query, key, value


@BACKENDS
@pytest.mark.parametrize(("heads", "kv_heads", "slots", "seen", "size"), [
    (6, 2, 1, 1, 16),
    (6, 2, 65, 64, 20),
    (3, 3, 700, 1, 32),
    (8, 1, 700, 699, 24),
    (34, 2, 130, 130, 16),
])  # fmt: skip
def test_sees_the_first_slots_and_nothing_else(heads, kv_heads, slots, seen, size, backend, dtype, tolerance):
    query, key, value = draw(2, heads, kv_heads, slots, size, dtype)
    key[:, :, seen:], value[:, :, seen:] = 1e4, -1e4
    actual = decode_attention(query, key, value, torch.tensor([seen]), scale=0.3, backend=backend)
    assert_near([actual], [definition(query, key, value, seen, 0.3)], tolerance)


@BACKENDS
def test_a_part_of_a_larger_cache(backend, dtype, tolerance):
    query, key, value = draw(3, 4, 2, 300, 16, dtype)
    actual = decode_attention(query, key[:, :, :200], value[:, :, :200], torch.tensor([170]), backend=backend)
    assert_near([actual], [definition(query, key, value, 170, 0.25)], tolerance)


@BACKENDS
def test_a_count_beyond_the_cache_means_all_of_it(backend, dtype, tolerance):
    query, key, value = draw(1, 2, 1, 40, 16, dtype)
    actual = decode_attention(query, key, value, torch.tensor([41]), backend=backend)
    assert_near([actual], [definition(query, key, value, 40, 0.25)], tolerance)


def test_refuses_shapes_that_disagree():
    query, key, value = draw(1, 4, 3, 8, 16, torch.float32)
    with pytest.raises(ValueError, match="multiple of Hkv"):
        decode_attention(query, key, value, torch.tensor([3]))
