"""Vector decays as products of two factors: the fast form of weak decays agrees with the form for any decay."""

import pytest
import torch
from jetlit_kernels.dplr_delta_rule import reference as dplr_delta_rule
from jetlit_kernels.linear_attention import reference as linear_attention
from jetlit_kernels.recurrence import WEAK_DECAY, FactoredDecay

T, HEADS, K, V = 75, 2, 5, 3
CHUNK = linear_attention.FACTORED_CHUNK


def operands(strength, dtype):
    """q, g, k, v, a, b whose strongest channel decays by about `strength` over a chunk."""
    generator = torch.Generator().manual_seed(round(strength))
    q, k, a, b = (torch.randn(2, T, HEADS, K, generator=generator, dtype=torch.float64) for _ in range(4))
    v = torch.randn(2, T, HEADS, V, generator=generator, dtype=torch.float64)
    g = -torch.rand(2, T, HEADS, K, generator=generator, dtype=torch.float64) * torch.linspace(0, 2, K)
    g = g * strength / CHUNK
    a = torch.nn.functional.normalize(a, dim=-1)
    return [t.to(dtype).requires_grad_() for t in (q, g, k, v, a, -a.detach() * b.sigmoid())]


def run(operator, tensors):
    q, g, k, v, a, b = tensors
    inputs = (q, k, v, g) if operator.endswith("linear_attention") else (q, g, k, v, a, b)
    module = linear_attention if operator.endswith("linear_attention") else dplr_delta_rule
    o, state = getattr(module, operator)(*inputs)
    grads = torch.autograd.grad((o * o.detach().cos()).sum() + state.square().sum(), inputs)
    return [o, state, *grads]


@pytest.mark.parametrize("operator", ["linear_attention", "dplr_delta_rule"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 0.85 * WEAK_DECAY])
@pytest.mark.parametrize("factored", [True, False])
def test_both_forms_match_the_recurrence(operator, strength, factored, monkeypatch):
    tensors = operands(strength, torch.float64)
    assert FactoredDecay.fits(tensors[1], CHUNK)
    if not factored:
        monkeypatch.setattr(FactoredDecay, "fits", lambda g, size: False)
    for ours, exact in zip(run(f"chunk_{operator}", tensors), run(f"recurrent_{operator}", tensors)):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("operator", ["linear_attention", "dplr_delta_rule"])
@pytest.mark.parametrize("strength", [1.0, 0.85 * WEAK_DECAY])
def test_float32_keeps_its_digits(operator, strength):
    exact = run(f"recurrent_{operator}", operands(strength, torch.float64))
    for ours, right in zip(run(f"chunk_{operator}", operands(strength, torch.float32)), exact):
        assert (ours.double() - right).norm() < 1e-5 * right.norm()


def test_strong_decays_are_left_to_the_other_form():
    assert not FactoredDecay.fits(operands(3 * WEAK_DECAY, torch.float32)[1], CHUNK)
