"""Argument checks that the operators share. Each raises one sentence before anything runs."""

from __future__ import annotations

import torch


def check_sequences(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Check that q, k [B, T, H, K] and v [B, T, H, V] belong together.

    Raises:
        ValueError: a rank or a size disagrees.
    """
    if q.dim() != 4 or v.dim() != 4 or q.shape != k.shape or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            "q and k must be [B, T, H, K] and v [B, T, H, V] with equal B, T and H; "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )


def check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless `tensor` has the given shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {shape}, not {tuple(tensor.shape)}.")


def check_packing(
    q: torch.Tensor, v: torch.Tensor, initial_state: torch.Tensor | None, cu_seqlens: torch.Tensor | None
) -> None:
    """Check cu_seqlens [N + 1] and initial_state [N, H, K, V] against the inputs.

    Raises:
        ValueError: packed sequences come with B != 1, cu_seqlens is not a vector of integers, or the state's shape
            does not fit.
    """
    sequences = q.shape[0]
    if cu_seqlens is not None:
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.is_floating_point():
            raise ValueError("cu_seqlens must be a vector of at least two integers, the bounds of the sequences.")
        if q.shape[0] != 1:
            raise ValueError(f"With cu_seqlens the sequences are packed into one row: B must be 1, not {q.shape[0]}.")
        sequences = cu_seqlens.shape[0] - 1
    if initial_state is not None:
        check_shape("initial_state", initial_state, (sequences, *q.shape[2:], v.shape[3]))
