"""Attention of a chunk of tokens over a sliding window of grouped heads."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.window_attention import reference


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Attend from each of the last T of S tokens to the last `window` tokens, itself included.

    The Triton kernel visits only the keys that some query of its tile sees. No gradient.

    Args:
        query: [B, Hq, T, D].
        key: [B, Hkv, S, D] with S ≥ T; Hq is a multiple of Hkv.
        value: as key.
        window: tokens seen, at least 1.
        scale: of the scores; None means D^−½.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [B, Hq, T, D] in the query's dtype; sums are float32.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    batch, heads, length, size = query.shape
    fits = key.ndim == 4 and key.shape == value.shape and key.shape[0] == batch and key.shape[3] == size
    if not fits or heads % key.shape[1] or key.shape[2] < length or window < 1:
        raise ValueError(
            "window_attention needs query [B, Hq, T, D], key and value [B, Hkv, S, D] with Hq a multiple of Hkv, S ≥ T "
            f"and a window of at least 1; got {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)} and "
            f"{window}."
        )
    scale = size**-0.5 if scale is None else scale
    if resolve_backend(backend, query) == "triton":
        from jetlit_kernels.window_attention import kernels

        return kernels.forward(query, key, value, window, scale)
    return reference.window_attention(query, key, value, window, scale)
