"""gated_rms_norm in Triton against the float64 reference on a GPU."""

import pytest
import torch
from jetlit_kernels import gated_rms_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
    pytest.mark.usefixtures("filled_with_nan"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 500, 12, 256), (3, 77, 2, 384), (5, 576), (1, 65, 4, 100)])
def test_value_and_gradients(shape, dtype, tolerance):
    o, gate, upstream = (torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
    inputs = [o.requires_grad_(), gate.requires_grad_(), torch.randn(shape[-1], device="cuda", requires_grad=True)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = gated_rms_norm(*inputs), gated_rms_norm(*exact, backend="torch")
    pairs = zip(
        [out, *torch.autograd.grad(out, inputs, upstream)],
        [expected, *torch.autograd.grad(expected, exact, upstream.double())],
        strict=True,
    )
    for actual, reference in pairs:
        assert ((actual.double() - reference).norm() / reference.norm()).item() <= tolerance


def test_compiles_and_repeats_exactly():
    inputs = [torch.randn(2, 300, 4, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    inputs.append(torch.randn(256, device="cuda", requires_grad=True))
    compiled = torch.compile(gated_rms_norm, fullgraph=True)
    runs = []
    for function in (gated_rms_norm, gated_rms_norm, compiled):
        out = function(*inputs)
        runs.append([out, *torch.autograd.grad(out, inputs, torch.ones_like(out))])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float32, 1e-5)])
@pytest.mark.parametrize("with_gate", [False, True])
def test_skip_and_gate_before_the_norm(with_gate, dtype, tolerance):
    shape = (2, 500, 12, 256)
    gate = torch.randn(shape, device="cuda").to(dtype).requires_grad_() if with_gate else None
    inputs = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for _ in range(2)]
    inputs += [torch.randn(size, device="cuda", requires_grad=True) for size in (256, 12)]
    inputs += [gate] if with_gate else []
    upstream = torch.randn(shape, device="cuda").to(dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = []
    for tensors, backend in ((inputs, "triton"), (exact, "torch")):
        o, skip, weight, skip_weight, *rest = tensors
        options = {"norm_before_gate": False, "skip": skip, "skip_weight": skip_weight, "backend": backend}
        out = gated_rms_norm(o, rest[0] if rest else None, weight, **options)
        found.append([out, *torch.autograd.grad(out, tensors, upstream.to(out.dtype))])
    for actual, reference in zip(*found, strict=True):
        assert ((actual.double() - reference).norm() / reference.norm()).item() <= tolerance
