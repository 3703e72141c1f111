"""dynamic_conv in Triton against the float64 reference on a GPU: outputs, final state and every gradient."""

import pytest
import torch
from jetlit_kernels import dynamic_conv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the kernels are compiled and timed"),
]
TOLERANCE = {torch.bfloat16: 5e-3, torch.float16: 2e-3, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory that the kernels fail to write shows as NaN."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(tensor):
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))


def draw(batch, length, channels, rank, taps, dtype, sequences=None, gain=1.0):
    def randn(*shape):
        return (gain * torch.randn(*shape, device="cuda")).to(dtype).requires_grad_()

    inputs = {
        "v": randn(batch, length, channels),
        "hidden": randn(batch, length, rank),
        "weight": (torch.randn(channels * taps, rank, device="cuda") * rank**-0.5).to(dtype).requires_grad_(),
        "bias": randn(channels * taps),
    }
    if sequences is not None:
        inputs["state"] = randn(sequences, channels, taps)
    return inputs


def run(inputs, upstream, **options):
    out, final = dynamic_conv(**inputs, output_final_state=True, **options)
    gradients = torch.autograd.grad([out, final], list(inputs.values()), [upstream.to(out.dtype), final * 0 + 1])
    return dict(zip(["out", "final", *(f"d_{name}" for name in inputs)], [out, final, *gradients], strict=True))


def check(inputs, tolerance, **options):
    upstream = torch.randn_like(inputs["v"], dtype=torch.float64)
    actual = run(inputs, upstream.to(inputs["v"].dtype), **options)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    expected = run(exact, upstream.to(inputs["v"].dtype), backend="torch", **options)
    for name, value in actual.items():
        error = ((value.double() - expected[name]).norm() / expected[name].norm().clamp_min(1e-30)).item()
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("taps", range(2, 9))
def test_every_width(taps, dtype):
    check(draw(2, 77, 200, 72, taps, dtype, sequences=2), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 125, 126, 500])
def test_odd_lengths(length, dtype):
    check(draw(2, length, 192, 64, 4, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rank", [1, 37, 136])
def test_odd_ranks(rank, dtype):
    check(draw(2, 77, 45, rank, 4, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_released_size(dtype):
    # More rows than the backward pass holds at a time.
    check(draw(3, 4096, 3072, 384, 4, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed(dtype, with_state):
    bounds = torch.tensor([0, 1, 3, 3, 130, 131, 700, 701], device="cuda")
    inputs = draw(1, 701, 192, 64, 4, dtype, sequences=7 if with_state else None)
    check(inputs, TOLERANCE[dtype], cu_seqlens=bounds)


def test_no_activation_and_strided_values():
    inputs = draw(2, 130, 192, 64, 4, torch.bfloat16)
    wide = torch.randn(2, 130, 400, device="cuda").bfloat16()
    inputs["v"] = wide[..., 100:292].detach().requires_grad_()
    check(inputs, TOLERANCE[torch.bfloat16], activation=None)


def test_inputs_a_hundred_times_larger_stay_finite():
    inputs = draw(1, 300, 192, 64, 4, torch.bfloat16, gain=100.0)
    for value in run(inputs, torch.randn_like(inputs["v"])).values():
        assert value.isfinite().all()


def test_equal_inputs_give_equal_results():
    inputs = draw(2, 3000, 3072, 384, 4, torch.bfloat16)
    upstream = torch.randn_like(inputs["v"])
    first, second = run(inputs, upstream), run(inputs, upstream)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_kernel_tensor_never_reaches_memory():
    batch, length, channels, rank, taps = 8, 4096, 3072, 384, 4
    inputs = draw(batch, length, channels, rank, taps, torch.bfloat16)
    upstream = torch.randn_like(inputs["v"])
    run(inputs, upstream)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out, _ = dynamic_conv(**inputs)
    assert torch.cuda.max_memory_allocated() - before < 2 * out.nbytes
    out.backward(upstream)
    # Output, gradients and a stretch's scratch: constant in the length but for the first two.
    scratch = 2 * 8192 * channels * taps * 2
    assert torch.cuda.max_memory_allocated() - before < 3 * out.nbytes + scratch + 2**27


def test_compiles_without_graph_break():
    inputs = draw(2, 200, 192, 64, 4, torch.bfloat16)
    compiled = torch.compile(lambda **x: dynamic_conv(**x)[0] * 2, fullgraph=True)
    upstream = torch.randn_like(inputs["v"])
    eager = torch.autograd.grad(dynamic_conv(**inputs)[0] * 2, list(inputs.values()), upstream)
    for a, b in zip(torch.autograd.grad(compiled(**inputs), list(inputs.values()), upstream), eager, strict=True):
        assert torch.equal(a, b)


def test_autocast_takes_float32_parameters():
    inputs = draw(2, 200, 192, 64, 4, torch.bfloat16)
    inputs |= {name: inputs[name].detach().float().requires_grad_() for name in ("weight", "bias")}
    out, _ = dynamic_conv(**inputs)
    gradients = torch.autograd.grad(out, [inputs["weight"], inputs["bias"]], torch.randn_like(out))
    assert out.dtype == torch.bfloat16 and all(x.dtype == torch.float32 for x in gradients)
