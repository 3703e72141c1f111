"""From tokens' merged projections to rotated queries, with keys and values put into the cache, in one launch."""

import torch

from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.rotate_and_store import reference


def rotate_and_store(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    norm_weights: tuple[torch.Tensor, torch.Tensor] | None = None,
    norm_eps: float = 1e-6,
    backend: str = "auto",
) -> torch.Tensor:
    """Normalize (Qwen3) and rotate the queries and keys of T tokens, and store their keys and values.

    The position stays on the device: a captured CUDA graph follows it. No gradient.

    Args:
        projected: [B, T, (Hq + 2·Hkv)·D], queries, keys and values of each token, in this order.
        cos: [T, D], of the tokens' positions.
        sin: [T, D].
        position: [1] integer on the same device; token t's slot is (position + t) mod S.
        keys: [B, Hkv, S, D] contiguous, changed in place; T ≤ S.
        values: as keys.
        norm_weights: [D] for queries and [D] for keys, RMSNorm before the rotation.
        norm_eps: epsilon of those norms.
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        Queries [B, Hq, T, D].

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    batch, groups, slots, size = keys.shape
    length = projected.shape[1]
    queries = projected.shape[2] // size - 2 * groups
    fits = keys.shape == values.shape and keys.is_contiguous() and values.is_contiguous() and size % 2 == 0
    fits &= projected.shape == (batch, length, (queries + 2 * groups) * size) and queries > 0 and length <= slots
    if not fits or cos.shape != (length, size) or sin.shape != (length, size) or position.numel() != 1:
        raise ValueError(
            "rotate_and_store needs projected [B, T, (Hq + 2·Hkv)·D], cos and sin [T, D], one position, and contiguous "
            f"keys and values [B, Hkv, S, D] with T ≤ S; got {tuple(projected.shape)}, {tuple(cos.shape)}, "
            f"{tuple(sin.shape)}, {position.numel()} positions, {tuple(keys.shape)} and {tuple(values.shape)}."
        )
    tensors = (projected, cos, sin, position, keys, values, norm_weights)
    if resolve_backend(backend, projected) == "triton":
        from jetlit_kernels.rotate_and_store import kernels

        return kernels.forward(*tensors, norm_eps)
    return reference.rotate_and_store(*tensors, norm_eps)
