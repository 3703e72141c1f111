from __future__ import annotations

import pytest
import torch
from jetlit_kernels import linear_attention
from jetlit_kernels.linear_attention.reference import recurrent_linear_attention

from tests.kernels.backends import INTERPRETED
from tests.kernels.recurrence_cases import (
    assert_close,
    cut_short_rows,
    relative_error,
    run_with_gradients,
    upstream_like,
)

KINDS = ["none", "scalar", "vector"]


def draw(
    kind: str, B: int, T: int, H: int = 2, K: int = 16, V: int = 24, N: int | None = None, decay: float = 0.1
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(T)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {"q": normal(B, T, H, K), "k": normal(B, T, H, K), "v": normal(B, T, H, V)}
    if kind != "none":
        tensors["g"] = -decay * normal(*((B, T, H, K) if kind == "vector" else (B, T, H))).exp()
    return {**tensors, "initial_state": normal(N or B, H, K, V)}


def check(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float, backend: str = "torch", **options: object
) -> None:
    upstream = upstream_like(tensors["v"], tensors["initial_state"])
    expected = run_with_gradients(recurrent_linear_attention, tensors, upstream, **options)
    actual = run_with_gradients(
        linear_attention, tensors, upstream, dtype=dtype, backend=backend, output_final_state=True, **options
    )
    assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 15, 17, 64, 131])
def test_matches_the_recurrence(kind: str, T: int) -> None:
    check(draw(kind, 2, T), torch.float64, 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_matches_the_recurrence_in_float32(kind: str) -> None:
    check(draw(kind, 1, 200), torch.float32, 1e-5, scale=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind: str) -> None:
    check(draw(kind, 1, 100, N=4), torch.float64, 1e-11, cu_seqlens=torch.tensor([0, 1, 66, 66, 100]))


@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize("decay", [0.0, 20.0, 1000.0])
def test_extreme_decays(kind: str, decay: float) -> None:
    check(draw(kind, 1, 100, decay=decay), torch.float64, 1e-11)


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=INTERPRETED)])
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_weak_decay_after_strong_decay_keeps_its_digits(kind: str, backend: str) -> None:
    tensors = draw(kind, 1, 64, decay=0.05)
    tensors["g"][:, ::7] = -3000.0
    check(tensors, torch.float32, 1e-5, backend)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_carries_the_state(kind: str) -> None:
    tensors = draw(kind, 1, 50)
    whole, last = linear_attention(**tensors, output_final_state=True)
    state: torch.Tensor | None = tensors.pop("initial_state")
    pieces = []
    for start, end in ((0, 1), (1, 20), (20, 50)):
        piece = {name: t[:, start:end] for name, t in tensors.items()}
        o, state = linear_attention(**piece, initial_state=state, output_final_state=True)
        pieces.append(o)
    assert relative_error(torch.cat(pieces, 1), whole) < 1e-11
    assert state is not None and last is not None and relative_error(state, last) < 1e-11


def test_a_wrong_decay_shape_is_refused() -> None:
    tensors = draw("scalar", 1, 5)
    with pytest.raises(ValueError, match="g must be"):
        linear_attention(**{**tensors, "g": tensors["g"][..., :1]})


@INTERPRETED
@pytest.mark.parametrize(("kind", "decay"), [("none", 0.0), ("scalar", 0.1), ("vector", 0.1), ("vector", 30.0)])
@pytest.mark.parametrize("bounds", [None, [0, 1, 1, 45, 70]])
def test_triton_matches_the_recurrence(kind: str, decay: float, bounds: list[int] | None) -> None:
    options = {} if bounds is None else {"cu_seqlens": torch.tensor(bounds)}
    check(
        draw(kind, 1, 70, H=1, K=40, N=len(bounds or [0, 70]) - 1, decay=decay),
        torch.float32,
        1e-5,
        "triton",
        **options,
    )


@INTERPRETED
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_triton_refuses_more_sequences_and_heads_than_a_launch_takes(kind: str) -> None:
    tensors = {name: t.float() for name, t in draw(kind, 21846, 1, H=3, K=1, V=1).items()}
    with pytest.raises(ValueError, match=r"at most 65,535 .* not 21,846 x 3: split it"):
        linear_attention(**tensors, backend="triton")


@INTERPRETED
def test_triton_long_rows_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short_rows(monkeypatch)
    check(draw("scalar", 1, 250, H=1, K=18, decay=1e-3), torch.float32, 1e-5, "triton")


@INTERPRETED
def test_triton_carries_the_state_of_a_vector_decay() -> None:
    tensors = {name: t.float() for name, t in draw("vector", 2, 40).items()}
    whole, last = linear_attention(**tensors, output_final_state=True, backend="triton")
    state = tensors.pop("initial_state")
    for start, end in ((0, 1), (1, 34), (34, 40)):
        piece = {name: t[:, start:end] for name, t in tensors.items()}
        o, state = linear_attention(**piece, initial_state=state, output_final_state=True, backend="triton")
        assert relative_error(o, whole[:, start:end]) < 1e-5
    assert relative_error(state, last) < 1e-5


@INTERPRETED
@pytest.mark.parametrize("packed", [False, True])
def test_triton_operator_is_complete(packed: bool) -> None:
    """Autograd, fake tensors and AOT tracing of the custom operator agree with its eager form."""
    from jetlit_kernels.linear_attention.autograd import gated_linear_attention_op

    bounds = torch.tensor([0, 30, 40]) if packed else None
    *tensors, state = (t.float().requires_grad_() for t in draw("vector", 1, 40, H=1).values())
    torch.library.opcheck(gated_linear_attention_op, (*tensors, None if packed else state, bounds, 0.25))
