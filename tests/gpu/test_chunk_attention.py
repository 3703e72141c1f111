"""A chunk's attention over its past takes the flash kernel, without copies of shared heads, and is right."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from jetlit.generation.cache import chunk_attention
from tests.kernels.backends import assert_near
from tests.kernels.test_window_attention import definition, draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("length", "slots"), [(300, 300), (257, 900), (1, 70)])
def test_flash_serves_a_chunk_and_its_past(length, slots):
    query, key, value = draw(2, 12, 2, length, slots + 50, 128, torch.bfloat16, "cuda")
    # As in the engine, the chunk's end is not the end of what is allocated.
    key, value = key[:, :, :slots], value[:, :, :slots]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        actual = chunk_attention(query, key, value, 128**-0.5)
    assert_near([actual], [definition(query, key, value, slots, 128**-0.5)], 5e-3)


def test_no_key_is_copied():
    query, key, value = draw(1, 16, 2, 64, 60_000, 128, torch.bfloat16, "cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    chunk_attention(query, key, value, 128**-0.5)
    assert torch.cuda.max_memory_allocated() - before < key.nbytes
