"""The Triton kernel of decode_attention on the GPU, in and out of a CUDA graph."""

import pytest
import torch
from jetlit_kernels import decode_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def exact(query, key, value, seen, scale):
    group = query.shape[1] // key.shape[1]
    keys, values = (x[:, :, :seen].double().repeat_interleave(group, 1) for x in (key, value))
    return torch.softmax((query.double()[:, :, None] @ keys.transpose(2, 3)) * scale, -1) @ values


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "slots", "seen", "size"), [
    (1, 12, 2, 4096, 4001, 128),
    (5, 16, 8, 1152, 1152, 128),
    (128, 12, 2, 2048, 1, 128),
    (3, 9, 3, 777, 700, 64),
])  # fmt: skip
def test_against_float64(batch, heads, kv_heads, slots, seen, size, dtype, tolerance):
    query = torch.randn(batch, heads, size, device="cuda", dtype=dtype)
    key, value = (torch.randn(batch, kv_heads, slots, size, device="cuda", dtype=dtype) for _ in range(2))
    key[:, :, seen:], value[:, :, seen:] = 1e4, -1e4
    count = torch.tensor([seen], device="cuda")
    actual = decode_attention(query, key, value, count, backend="triton")
    expected = exact(query, key, value, seen, size**-0.5)[:, :, 0]
    assert (actual.double() - expected).norm() <= tolerance * expected.norm()


def test_a_graph_follows_the_count():
    query = torch.randn(2, 4, 64, device="cuda")
    key, value = (torch.randn(2, 2, 1000, 64, device="cuda") for _ in range(2))
    count = torch.tensor([1], device="cuda")
    decode_attention(query, key, value, count)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(query, key, value, count)
    for seen in (1, 64, 65, 1000):
        count.fill_(seen)
        graph.replay()
        expected = exact(query, key, value, seen, 64**-0.5)[:, :, 0]
        assert (out.double() - expected).norm() <= 1e-5 * expected.norm()
