"""log_decay_and_beta against its formula in float64."""

import pytest
import torch
from jetlit_kernels import log_decay_and_beta

from tests.kernels.backends import BACKENDS, assert_near


def draw(shape, dtype, device="cpu"):
    """Logits as two slices of one projection, and parameters; steps far on both sides of softplus's bend.

    Not above 20 in float64, though, where PyTorch takes softplus(x) for x.
    """
    torch.manual_seed(shape[-1])
    merged = torch.randn(*shape[:-1], 3 * shape[-1], device=device, dtype=dtype) * (4 if dtype == torch.float64 else 8)
    parameters = torch.randn(2, shape[-1], device=device, dtype=dtype)
    return merged[..., -shape[-1] :], merged[..., : shape[-1]], parameters[0], parameters[1]


def definition(beta_logits, a, A_log, dt_bias):
    beta_logits, a, A_log, dt_bias = (x.double() for x in (beta_logits, a, A_log, dt_bias))
    return -A_log.exp() * (a + dt_bias).exp().log1p(), 1 / (1 + (-beta_logits).exp())


@BACKENDS
@pytest.mark.parametrize("shape", [(2, 300, 3), (7, 12), (1, 1, 1)])
@torch.no_grad()
def test_matches_definition(shape, backend, dtype, tolerance):
    inputs = draw(shape, dtype)
    assert_near(log_decay_and_beta(*inputs, backend=backend), definition(*inputs), tolerance)


def gradients(call, inputs, upstream):
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(call(*leaves), leaves, [u.double() if call is definition else u for u in upstream])


@BACKENDS
@pytest.mark.parametrize("shape", [(2, 300, 3), (7, 12), (1, 1, 1)])
def test_gradients_match_those_of_the_definition(shape, backend, dtype, tolerance):
    inputs = draw(shape, dtype)
    upstream = torch.randn(2, *shape, dtype=dtype)
    found = gradients(lambda *x: log_decay_and_beta(*x, backend=backend), inputs, upstream)
    assert_near(found, gradients(definition, inputs, upstream), tolerance)


@BACKENDS
@torch.no_grad()
def test_small_decays_keep_their_digits(backend, dtype, tolerance):
    a, zero = torch.linspace(-16, -2, 40, dtype=dtype)[:, None], torch.zeros(1, dtype=dtype)
    for row in a:
        g, _ = log_decay_and_beta(row, row, zero, zero, backend=backend)
        assert_near([g], [definition(row, row, zero, zero)[0]], tolerance)
