"""Rotary position embedding in the half-split layout of Llama and Qwen: angles, and one pass in each direction."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.rotate import reference
from jetlit_kernels.rotate.autograd import run


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """Rotate the pairs (i, i + K/2) of x: (a · cos − b · sin, b · cos + a · sin), computed in float32 and cast once.

    Args:
        x: [B, T, H, K], K even.
        cos: [B or 1, T, K/2], of each token's angles; no gradient.
        sin: as `cos`.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [B, T, H, K] in the dtype of `x`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    batch, length, _, size = x.shape
    if cos.shape != sin.shape or cos.shape[1:] != (length, size // 2) or cos.shape[0] not in (1, batch) or size % 2:
        raise ValueError(
            "rotate needs x [B, T, H, K] with an even K, and cos and sin [B or 1, T, K/2]; got "
            f"{tuple(x.shape)}, {tuple(cos.shape)} and {tuple(sin.shape)}."
        )
    if resolve_backend(backend, x) == "triton":
        return run(x, cos, sin)
    return reference.rotate(x, cos, sin)


def rotary_angles(
    positions: torch.Tensor, size: int, theta: float, dtype: torch.dtype = torch.float32, *, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of position · theta^(−2i/K), computed in float64 in one launch; no gradient.

    Args:
        positions: [B, T] integers.
        size: K, even.
        theta: base of the wavelengths.
        dtype: of the result.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        Two tensors [B, T, K/2].

    Raises:
        ValueError: K is odd, or the backend cannot run here.
    """
    if size % 2:
        raise ValueError(f"rotary_angles needs an even K; got {size}.")
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"  # a compiler fuses it just as well
    if resolve_backend(backend, positions.new_empty(0, dtype=dtype)) == "triton":
        from jetlit_kernels.rotate import kernels

        return kernels.angles(positions, size, theta, dtype)
    return reference.rotary_angles(positions, size, theta, dtype)
