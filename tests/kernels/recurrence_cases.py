"""What the tests of the three recurrences share: comparisons, and running an operator forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

Operator = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
Step = Callable[[int], None]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """‖actual - expected‖ / ‖expected‖ in float64; a tensor with a NaN has an infinite error."""
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return float("inf")
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor of `expected` has its like in `actual`, within a relative error."""
    errors = {name: relative_error(actual[name], value) for name, value in expected.items()}
    assert all(error <= tolerance for error in errors.values()), {n: f"{e:.2e}" for n, e in errors.items()}


def run_with_gradients(
    operator: Operator,
    tensors: dict[str, torch.Tensor],
    upstream: tuple[torch.Tensor, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    **options: object,
) -> dict[str, torch.Tensor]:
    """Run an operator on copies of `tensors` and back-propagate `upstream` into its output and final state.

    Returns the output "o", the "state", and a gradient "d<name>" for every tensor.
    """
    leaves = {n: t.detach().to(dtype or t.dtype).clone().requires_grad_() for n, t in tensors.items()}
    o, state = operator(**leaves, **options)
    assert state is not None
    torch.autograd.backward((o, state), (upstream[0].to(o), upstream[1].to(state)))
    result = {"o": o, "state": state}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, f"no gradient reached {name}"
        result[f"d{name}"] = leaf.grad
    return result


def upstream_like(v: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Random gradients of the output [B, T, H, V] and of the final state [N, H, K, V]."""
    return torch.randn_like(v), torch.randn_like(state)


def cut_short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts rows of four chunks or more into segments, as a GPU does with rows of a hundred."""
    from jetlit_kernels.gated_delta_rule import plan
    from jetlit_kernels.gated_delta_rule import segments as cut

    monkeypatch.setattr(plan, "INTERVAL", 2)
    monkeypatch.setattr(cut, "SHORTEST", 2)


def watch_turns(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Collect, of every backward pass of the gated delta rule, its groups of chunks and its sets of scratch memory."""
    from jetlit_kernels.gated_delta_rule import backward as launcher

    walks: list[tuple[int, int]] = []
    in_turns = launcher.in_turns

    def watched(lead: Step, follow: Step, turns: int, sets: int, device: torch.device) -> None:
        walks.append((turns, sets))
        in_turns(lead, follow, turns, sets, device)

    monkeypatch.setattr(launcher, "in_turns", watched)
    return walks
