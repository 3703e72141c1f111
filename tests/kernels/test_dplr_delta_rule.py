from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from jetlit_kernels import dplr_delta_rule
from jetlit_kernels.dplr_delta_rule.reference import recurrent_dplr_delta_rule

from tests.kernels.recurrence_cases import assert_close, relative_error, run_with_gradients, upstream_like


def draw(
    B: int, T: int, H: int = 2, K: int = 16, V: int = 24, N: int | None = None, decay: float = 0.1
) -> dict[str, torch.Tensor]:
    """Return inputs as RWKV7 makes them: a = -κ̂ of unit length, b = κ̂ times a rate between 0 and 1."""
    generator = torch.Generator().manual_seed(T)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    removed = F.normalize(normal(B, T, H, K), dim=-1)
    return {
        "r": normal(B, T, H, K),
        "w": -decay * normal(B, T, H, K).exp(),
        "k": normal(B, T, H, K),
        "v": normal(B, T, H, V),
        "a": -removed,
        "b": removed * normal(B, T, H, K).sigmoid(),
        "initial_state": normal(N or B, H, K, V),
    }


def check(tensors: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float, **options: object) -> None:
    upstream = upstream_like(tensors["v"], tensors["initial_state"])
    expected = run_with_gradients(recurrent_dplr_delta_rule, tensors, upstream, **options)
    actual = run_with_gradients(
        dplr_delta_rule, tensors, upstream, dtype=dtype, backend="torch", output_final_state=True, **options
    )
    assert_close(actual, expected, tolerance)


def test_the_recurrence_is_the_transposed_rwkv7_equation() -> None:
    tensors = draw(1, 9, H=1)
    r, w, k, v, a, b = (tensors[n][0, :, 0] for n in "rwkvab")
    state = tensors["initial_state"][0, 0].T.clone()
    expected = []
    for t in range(9):
        state = state @ (torch.diag(w[t].exp()) + torch.outer(a[t], b[t])) + torch.outer(v[t], k[t])
        expected.append(state @ r[t])
    o, last = recurrent_dplr_delta_rule(**tensors)
    assert relative_error(o[0, :, 0], torch.stack(expected)) < 1e-12
    assert relative_error(last[0, 0].T, state) < 1e-12


@pytest.mark.parametrize("T", [1, 15, 16, 17, 100])
def test_matches_the_recurrence(T: int) -> None:
    check(draw(2, T), torch.float64, 1e-10)


def test_matches_the_recurrence_in_float32() -> None:
    check(draw(1, 100), torch.float32, 1e-5, scale=0.5)


def test_packed_sequences() -> None:
    check(draw(1, 100, N=4), torch.float64, 1e-10, cu_seqlens=torch.tensor([0, 1, 66, 66, 100]))


@pytest.mark.parametrize("decay", [0.0, 20.0, 1000.0])
def test_extreme_decays(decay: float) -> None:
    check(draw(1, 60, decay=decay), torch.float64, 1e-9)


def test_a_split_carries_the_state() -> None:
    tensors = draw(1, 50)
    whole, last = dplr_delta_rule(**tensors, output_final_state=True)
    state: torch.Tensor | None = tensors.pop("initial_state")
    pieces = []
    for start, end in ((0, 1), (1, 20), (20, 50)):
        piece = {name: t[:, start:end] for name, t in tensors.items()}
        o, state = dplr_delta_rule(**piece, initial_state=state, output_final_state=True)
        pieces.append(o)
    assert relative_error(torch.cat(pieces, 1), whole) < 1e-11
    assert state is not None and last is not None and relative_error(state, last) < 1e-11


def test_arguments_that_disagree_are_refused() -> None:
    tensors = draw(1, 5)
    with pytest.raises(ValueError, match="w must have the shape"):
        dplr_delta_rule(**{**tensors, "w": tensors["w"][..., :1]})
    with pytest.raises(ValueError, match="no Triton kernels"):
        dplr_delta_rule(**tensors, backend="triton")
