"""What the plain-PyTorch recurrences share: chunks, packed sequences, and decays that cannot overflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from jetlit_kernels.packing import PaddedBatch

Recurrence = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def l2_normalize(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Return x · rsqrt(Σ x² + eps) over the last dimension, as the released JetBlock does."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def to_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """Map [B, T, H, ...] to [B, H, chunks, size, ...], the last chunk filled with zeros."""
    x = x.transpose(1, 2)
    missing = -x.shape[2] % size
    if missing:
        x = F.pad(x, (0, 0) * (x.dim() - 3) + (0, missing))
    return x.unflatten(2, (-1, size))


def from_chunks(x: torch.Tensor, length: int) -> torch.Tensor:
    """Map [B, H, chunks, size, V] to [B, T, H, V], cut to `length` positions."""
    return x.flatten(2, 3)[:, :, :length].transpose(1, 2)


def summed_decay(g: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the running sum of log decays along `dim` in float64.

    Differences of two sums stand for the decay between two positions. After a strong decay both sums are large, and
    in float32 their difference would keep too few digits of a weak decay that follows.
    """
    return g.double().cumsum(dim)


def pairwise_decay(summed: torch.Tensor, dtype: torch.dtype, lag: int = 0) -> torch.Tensor:
    """Return the decay exp(G_{i-lag} - G_j) from token j to token i - lag >= j of a chunk, and 0 for i - lag < j.

    Differences above the diagonal may be large and positive; they are masked before the exponential, so that they
    neither overflow nor turn a gradient into 0 · inf. Those on the diagonal are the constant 0: their two gradients
    would cancel but for rounding, and drown the small gradient of a strong decay.

    Args:
        summed: G, the running sum of log decays: [..., C, F].
        dtype: dtype of the result.
        lag: 0, or 1 for a token that reads the state as it stood before its own decay.

    Returns:
        [..., C, C, F].
    """
    i = torch.arange(summed.shape[-2], device=summed.device)
    same = (i[:, None] - lag == i)[..., None]
    above = (i[:, None] - lag < i)[..., None]
    difference = shifted(summed, lag)[..., :, None, :] - summed[..., None, :, :]
    return difference.masked_fill(same, 0).masked_fill(above, -torch.inf).to(dtype).exp()


def shifted(summed: torch.Tensor, lag: int) -> torch.Tensor:
    """Return G_{i-lag} for the running sum G [..., C, F], zero before the chunk."""
    return F.pad(summed, (0, 0, lag, 0))[..., : summed.shape[-2], :]


def decay_to_end(summed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return, for summed log decays [..., C, F], the decay from each token to the end of its chunk."""
    before_last = (summed[..., -1:, :] - summed[..., :-1, :]).to(dtype).exp()
    return F.pad(before_last, (0, 0, 0, 1), value=1.0)


# The strongest decay over a chunk, as a log, that `FactoredDecay` takes: exp(50) = 5e21 leaves float32 room for large
# inputs beside it.
WEAK_DECAY = 50.0


class FactoredDecay:
    """The decay between two tokens of a chunk as a product, exp(G_i) · exp(-G_j), for matrix products.

    The second factor exceeds 1, so this is only for chunks over which no channel decays too strongly. Above the
    diagonal the products are large and meaningless: cut them off with `tril`.

    Args:
        g: log decays, [..., C, K].
        dtype: dtype of the factors.

    Attributes:
        up: exp(G_i), [..., C, K], from the start of the chunk.
        up_before: exp(G_{i-1}), [..., C, K], for a token that reads the state before its own decay.
        down: exp(-G_j), [..., C, K].
        whole: exp(G_C), [..., K, 1], over the chunk.
    """

    def __init__(self, g: torch.Tensor, dtype: torch.dtype) -> None:
        summed = summed_decay(g, -2).to(dtype)
        self.up, self.down = summed.exp(), (-summed).exp()
        self.up_before = shifted(summed, 1).exp()
        self.whole = self.up[..., -1, :, None]

    @staticmethod
    def fits(g: torch.Tensor, size: int) -> bool:
        """Return whether log decays [B, T, H, K] are weak enough over every `size` tokens.

        The answer depends on numbers: on CUDA it costs a synchronization, and while a graph is traced or captured it
        is no.
        """
        if torch.compiler.is_compiling() or (g.is_cuda and torch.cuda.is_current_stream_capturing()):
            return False
        if g.numel() == 0:
            return False
        return bool(to_chunks(g, size).sum(-2).min() > -WEAK_DECAY)


def run_padded(
    recurrence: Recurrence,
    sequences: Sequence[torch.Tensor | None],
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a recurrence over a batch, or over packed sequences laid out as a padded batch.

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
