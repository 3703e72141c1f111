"""Sliding windows by flash attention against the same block in float64 on a CPU."""

import pytest
import torch

from jetlit.blocks.banded import runs_banded
from jetlit.blocks.sliding_window import SlidingWindowAttention
from tests.blocks.attention_reference import rotary

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not runs_banded(torch.device("cuda"), torch.bfloat16),
        reason="needs a CUDA device and a PyTorch whose flash attention takes a window",
    ),
]


@pytest.mark.parametrize(("length", "window"), [(700, 100), (129, 1), (65, 200), (1024, 1024)])
def test_output_and_gradients(length, window):
    torch.manual_seed(0)
    block = SlidingWindowAttention(256, 4, 2, 64, window_size=window).double()
    x = torch.randn(2, length, 256, dtype=torch.float64)
    position = rotary(length, 64)
    upstream = torch.randn_like(x)

    def run(block, x, position, upstream):
        x = x.clone().requires_grad_()
        y = block(x, position_embeddings=position)
        gradients = torch.autograd.grad(y, [x, *block.parameters()], upstream)
        # Together: a window of one token leaves queries and keys without any.
        return [y, torch.cat([gradient.flatten() for gradient in gradients])]

    expected = run(block, x, tuple(p.double() for p in position), upstream)
    here = ("cuda", torch.bfloat16)
    found = run(block.to(*here), x.to(*here), tuple(p.to(*here) for p in position), upstream.to(*here))
    for actual, exact in zip(found, expected, strict=True):
        error = (actual.cpu().double() - exact).norm() / exact.norm()
        assert error < 2e-2, error
