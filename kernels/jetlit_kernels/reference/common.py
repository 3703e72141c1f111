"""What the plain-PyTorch recurrences share: compute types, chunking, decays that cannot overflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from jetlit_kernels.reference.packing import PaddedBatch

Recurrence = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def compute_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """Returns float64 when any tensor is float64, float32 otherwise."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def l2_normalise(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Returns x · rsqrt(Σ x² + eps) over the last dimension, as the released JetBlock does."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def to_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """Maps [B, T, H, ...] to [B, H, chunks, size, ...], the last chunk filled with zeros."""
    x = x.transpose(1, 2)
    missing = -x.shape[2] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.dim() - 3) + (0, missing))
    return x.unflatten(2, (-1, size))


def from_chunks(x: torch.Tensor, length: int) -> torch.Tensor:
    """Maps [B, H, chunks, size, V] to [B, T, H, V], cut to `length` positions."""
    return x.flatten(2, 3)[:, :, :length].transpose(1, 2)


def summed_decay(g: torch.Tensor, dim: int) -> torch.Tensor:
    """Returns the running sum of log decays along `dim` in float64.

    Differences of two sums stand for the decay between two positions. After a strong decay both sums are large, and
    in float32 their difference would keep too few digits of a weak decay that follows.
    """
    return g.double().cumsum(dim)


def decay_between(later: torch.Tensor, earlier: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns exp(later - earlier) where that difference is at most zero, and 1 where it is not.

    Entries above the diagonal of a chunk have a positive difference, which might overflow and turn the gradient of
    the mask applied afterwards into 0 · inf; the minimum keeps them finite and the mask removes them.
    """
    return (later - earlier).clamp(max=0).to(dtype).exp()


def run_padded(
    recurrence: Recurrence,
    sequences: Sequence[torch.Tensor | None],
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a recurrence over a batch, or over packed sequences laid out as a padded batch.

    Args:
        recurrence: called with the tensors of `sequences` and the state; returns (o [B, T, H, V], state).
        sequences: tensors [B, T, H, ...], or None.
        initial_state: [N, H, K, V] or None.
        cu_seqlens: [N + 1], or None when every row of the batch is one sequence.

    Returns:
        o in the layout of the inputs, and the final state [N, H, K, V].
    """
    first = next(t for t in sequences if t is not None)
    # The recurrences choose their own precision; autocast would take the products down to bfloat16.
    with torch.autocast(first.device.type, enabled=False):
        if cu_seqlens is None:
            return recurrence(*sequences, initial_state)
        layout = PaddedBatch(cu_seqlens, first.shape[1])
        o, state = recurrence(*(None if t is None else layout.pad(t) for t in sequences), initial_state)
        return layout.unpad(o), state
