"""Linear attention's Triton kernels on a GPU against the recurrence in float64, on fresh random inputs.

Every allocation is filled with NaN first, so that an element that nothing wrote shows.
"""

from __future__ import annotations

import pytest
import torch
from jetlit_kernels import linear_attention
from jetlit_kernels.linear_attention.reference import chunk_linear_attention

from tests.kernels.recurrence_cases import assert_close, relative_error, run_with_gradients, upstream_like

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("filled_with_nan"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.bfloat16: 5e-3, torch.float32: 1e-5}
DTYPES = [torch.bfloat16, torch.float32]


def check(tensors: dict[str, torch.Tensor], dtype: torch.dtype, **options: object) -> None:
    tensors = {name: t.to(dtype) if name in "qkv" else t for name, t in tensors.items()}
    v, sequences = tensors["v"], tensors["initial_state"].shape[0] if "initial_state" in tensors else 2
    state = v.new_empty(sequences, v.shape[2], tensors["k"].shape[3], v.shape[3], dtype=torch.float32)
    upstream = torch.randn_like(v), 0.1 * torch.randn_like(state)
    expected = run_with_gradients(chunk_linear_attention, tensors, upstream, dtype=torch.float64, **options)
    actual = run_with_gradients(
        linear_attention, tensors, upstream, backend="triton", output_final_state=True, **options
    )
    assert_close(actual, expected, TOLERANCE[dtype])


def draw(
    kind: str, B: int, T: int, H: int, K: int, V: int, decay: float = 0.1, N: int | None = None
) -> dict[str, torch.Tensor]:
    tensors = {name: torch.randn(B, T, H, width, device="cuda") for name, width in zip("qkv", (K, K, V), strict=True)}
    if kind != "none":
        shape = (B, T, H, K) if kind == "vector" else (B, T, H)
        tensors["g"] = -decay * torch.randn(shape, device="cuda").exp()
    return tensors | {"initial_state": torch.randn(N or B, H, K, V, device="cuda")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "decay"),
    [("none", 0.0), ("scalar", 0.1), ("scalar", 30.0), *(("vector", decay) for decay in (0.0, 1e-3, 0.1, 3.0, 30.0))],
)
def test_decays(kind: str, decay: float, dtype: torch.dtype) -> None:
    check(draw(kind, 2, 500, 3, 96, 128, decay), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize(
    ("T", "K", "V"),
    [(1, 64, 64), (63, 32, 64), (64, 96, 256), (65, 128, 64), (300, 256, 512), (500, 128, 128), (4096, 64, 128)],
)
def test_sizes(T: int, K: int, V: int, kind: str, dtype: torch.dtype) -> None:
    # Of few numbers, as a single token's decays are, the relative error is chance.
    check(draw(kind, 64 if T == 1 else 1 if T > 1000 else 2, T, 3, K, V), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_long_rows_in_segments(dtype: torch.dtype) -> None:
    tensors = {n: t.to(dtype) if n in "qkv" else t for n, t in draw("scalar", 1, 8192 + 37, 2, 96, 256, 1e-3).items()}
    o, state = linear_attention(**tensors, backend="triton", output_final_state=True)
    expected = chunk_linear_attention(**{name: t.double() for name, t in tensors.items()})
    assert_close(dict(o=o, state=state), dict(zip(("o", "state"), expected)), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_an_initial_state(dtype: torch.dtype) -> None:
    tensors = draw("vector", 2, 130, 3, 96, 64)
    del tensors["initial_state"]
    check(tensors, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_packed_sequences(kind: str, dtype: torch.dtype) -> None:
    lengths = torch.tensor([0, 1, 64, 65, 0, 500], device="cuda")
    check(draw(kind, 1, 630, 3, 64, 128, N=5), dtype, cu_seqlens=lengths.cumsum(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weak_decay_after_strong_decay(dtype: torch.dtype) -> None:
    tensors = draw("vector", 2, 200, 3, 64, 64, 0.05)
    tensors["g"][:, ::7] = -3000.0
    check(tensors, dtype)


@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_equal_inputs_give_equal_results(kind: str) -> None:
    tensors = {n: t.bfloat16() if n in "qkv" else t for n, t in draw(kind, 2, 700, 4, 128, 128).items()}
    upstream = upstream_like(tensors["v"], tensors["initial_state"])
    once, again = (
        run_with_gradients(linear_attention, tensors, upstream, backend="triton", output_final_state=True)
        for _ in range(2)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_compiled_without_graph_breaks() -> None:
    tensors = {n: t.bfloat16() if n in "qkv" else t for n, t in draw("vector", 2, 130, 2, 64, 64).items()}
    upstream = upstream_like(tensors["v"], tensors["initial_state"])
    compiled = torch.compile(linear_attention, fullgraph=True)
    expected = run_with_gradients(linear_attention, tensors, upstream, output_final_state=True)
    actual = run_with_gradients(compiled, tensors, upstream, output_final_state=True)
    assert_close(actual, expected, 1e-3)


def test_float16_is_computed_in_float32() -> None:
    tensors = {n: t.half() if n in "qkv" else t for n, t in draw("vector", 2, 100, 2, 64, 64).items()}
    o, _ = linear_attention(**tensors, backend="triton")
    expected, _ = chunk_linear_attention(**{n: t.double() for n, t in tensors.items()})
    assert o.dtype == torch.float16 and relative_error(o, expected) < 1e-3
