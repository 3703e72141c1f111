"""Linear attention's Triton kernels on a GPU against the recurrence in float64, on fresh random inputs."""

from __future__ import annotations

import pytest
import torch
from jetlit_kernels import linear_attention
from jetlit_kernels.reference.linear_attention import chunk_linear_attention

from tests.kernels.recurrence_cases import assert_close, run_with_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.bfloat16: 5e-3, torch.float32: 1e-5}


def check(tensors: dict[str, torch.Tensor], dtype: torch.dtype, **options: object) -> None:
    tensors = {name: t.to(dtype) if name in "qkv" else t for name, t in tensors.items()}
    upstream = torch.randn_like(tensors["v"]), 0.1 * torch.randn_like(tensors["initial_state"])
    expected = run_with_gradients(chunk_linear_attention, tensors, upstream, dtype=torch.float64, **options)
    actual = run_with_gradients(
        linear_attention, tensors, upstream, backend="triton", output_final_state=True, **options
    )
    assert_close(actual, expected, TOLERANCE[dtype])


def draw(B: int, T: int, H: int, K: int, V: int, decay: float | None, N: int | None = None) -> dict[str, torch.Tensor]:
    tensors = {name: torch.randn(B, T, H, width, device="cuda") for name, width in zip("qkv", (K, K, V), strict=True)}
    if decay is not None:
        tensors["g"] = -decay * torch.randn(B, T, H, device="cuda").exp()
    return tensors | {"initial_state": torch.randn(N or B, H, K, V, device="cuda")}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("decay", [None, 0.1, 30.0])
def test_decays(decay: float | None, dtype: torch.dtype) -> None:
    check(draw(2, 500, 3, 96, 128, decay), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("T", "K", "V"), [(1, 64, 64), (65, 128, 64), (300, 256, 512)])
def test_sizes(T: int, K: int, V: int, dtype: torch.dtype) -> None:
    check(draw(2, T, 3, K, V, 0.1), dtype)


def test_packed_sequences() -> None:
    lengths = torch.tensor([0, 1, 64, 65, 0, 500], device="cuda")
    check(draw(1, 630, 3, 64, 128, 0.1, N=5), torch.bfloat16, cu_seqlens=lengths.cumsum(0))
