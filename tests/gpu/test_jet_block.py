"""The JetBlock as one module on a GPU: under torch.compile, autocast and activation checkpointing, and repeated."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from jetlit.blocks.jet import JetBlock
from tests.kernels.recurrence_cases import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = {"hidden_size": 256, "num_heads": 3, "head_dim": 96, "expand_v": 8 / 3}


def make(dtype: torch.dtype = torch.bfloat16) -> JetBlock:
    torch.manual_seed(0)
    block = JetBlock(**SIZES)
    generator = block.dynamic_conv1d.kernel_generator
    for tensor, size in ((generator.w1.weight, 0.1), (generator.w2.weight, 0.1), (generator.w2.bias, 0.5)):
        torch.nn.init.normal_(tensor, std=size)
    return block.to("cuda", dtype)


def draw(length: int = 201) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, length, SIZES["hidden_size"], device="cuda")
    return x.bfloat16(), torch.randn_like(x).bfloat16()


def run(call, block: JetBlock, x: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = call(x)
    return [out, *torch.autograd.grad(out, [x, *block.parameters()], upstream.to(out.dtype))]


def test_compiles_without_graph_break() -> None:
    block, data = make(), draw()
    compiled = torch.compile(block, fullgraph=True)
    for a, b in zip(run(compiled, block, *data), run(block, block, *data), strict=True):
        assert relative_error(a, b) < 2e-2  # another order of roundings to bfloat16


def test_equal_inputs_give_equal_results_to_the_bit_checkpointed_or_not() -> None:
    block, data = make(), draw()
    plain = run(block, block, *data)
    again = run(block, block, *data)
    checkpointed = run(lambda x: checkpoint(block, x, use_reentrant=False), block, *data)
    for a, b, c in zip(plain, again, checkpointed, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_autocast_keeps_float32_parameters_and_their_gradients() -> None:
    block, (x, upstream) = make(torch.float32), draw()
    exact = make(torch.float64)

    def cast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return block(x)

    found = run(cast, block, x.float(), upstream)
    expected = run(exact, exact, x.double(), upstream)
    assert found[0].dtype == torch.bfloat16 and all(t.dtype == torch.float32 for t in found[1:])
    names = ["out", "x", *(name for name, _ in block.named_parameters())]
    errors = {n: relative_error(a, b) for n, a, b in zip(names, found, expected, strict=True)}
    assert max(errors.values()) < 2e-2, errors
