"""Attention of one new token over a preallocated cache of grouped heads."""

import torch

from jetlit_kernels.decode_attention import reference
from jetlit_kernels.dispatch import resolve_backend


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Attend from one token per sequence to the first `seen` slots of its cache.

    The Triton kernel splits each sequence's cache over several programs, so that few long sequences fill the device,
    and reads each key and value once for all query heads of a group. `seen` stays on the device: a captured CUDA graph
    follows it. No gradient.

    Args:
        query: [B, Hq, D].
        key: [B, Hkv, S, D]; Hq is a multiple of Hkv. Slots beyond `seen` may hold anything.
        value: as key.
        seen: [1] integer on the same device, 1 ≤ seen ≤ S (larger values count as S).
        scale: of the scores; None means D^−½.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [B, Hq, D] in the query's dtype; sums are float32.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    batch, heads, size = query.shape
    fits = key.ndim == 4 and key.shape == value.shape and key.shape[0] == batch and key.shape[3] == size
    if not fits or heads % key.shape[1] or seen.numel() != 1:
        raise ValueError(
            "decode_attention needs query [B, Hq, D], key and value [B, Hkv, S, D] with Hq a multiple of Hkv, and one "
            f"count; got {tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)} and {seen.numel()} counts."
        )
    scale = size**-0.5 if scale is None else scale
    if resolve_backend(backend, query) == "triton":
        from jetlit_kernels.decode_attention import kernels

        return kernels.forward(query, key, value, seen, scale)
    return reference.decode_attention(query, key, value, seen, scale)
