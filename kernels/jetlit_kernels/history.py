"""The inputs before a causal convolution's window: read from a carried state, and returned as the next one."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sequences:
    """Where each of the M rows of a batch stands: its position in its sequence and, for a state, its sequence's number.

    Both are [M] int32, or None for plain batches, whose positions the kernels compute.
    """

    positions: torch.Tensor | None
    owners: torch.Tensor | None

    @classmethod
    def of(cls, cu_seqlens: torch.Tensor | None, rows: int) -> Sequences:
        """Return where `rows` packed rows stand."""
        if cu_seqlens is None:
            return cls(None, None)
        index = torch.arange(rows, device=cu_seqlens.device)
        owners = torch.searchsorted(cu_seqlens, index, right=True) - 1
        return cls((index - cu_seqlens[owners]).int(), owners.int())


def constant_stride(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return x [B, T, D], copied if its B·T rows are not a constant stride apart, and that stride."""
    batch, length, _ = x.shape
    if x.stride(2) != 1 or (batch > 1 and x.stride(0) != length * x.stride(1)):
        x = x.contiguous()
    return x, x.stride(1)


def final_inputs(
    x: torch.Tensor, taps: int, state: torch.Tensor | None, cu_seqlens: torch.Tensor | None
) -> torch.Tensor:
    """Return the last W inputs of every sequence, oldest first: [N, D, W] in the dtype of `x`."""
    if cu_seqlens is None and x.shape[1] >= taps:
        return x[:, -taps:].transpose(1, 2).contiguous()
    padded, _, ends = with_history(x, taps, state, cu_seqlens)
    return last_inputs(padded, ends, taps)


def with_history(
    x: torch.Tensor, taps: int, state: torch.Tensor | None, cu_seqlens: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Put W rows of history before every sequence of `x` [B, T, D].

    Returns:
        The padded inputs [B, T + N·W / B, D], the row of each token in them [T] (None: row t + W for token t) and the
        row after each sequence [N / B].
    """
    batch, length, channels = x.shape
    if cu_seqlens is None:
        history = x.new_zeros(batch, taps, channels) if state is None else state.transpose(1, 2).to(x.dtype)
        end = torch.full((1,), taps + length, device=x.device)  # made there: to bring it is to wait for the device
        return torch.cat([history, x], dim=1), None, end

    bounds = cu_seqlens.to(x.device, torch.long)
    sequences = bounds.numel() - 1
    owner = torch.searchsorted(bounds, torch.arange(length, device=x.device), right=True)
    rows = torch.arange(length, device=x.device) + owner * taps
    ends = bounds[1:] + torch.arange(1, sequences + 1, device=x.device) * taps
    padded = x.new_zeros(1, length + sequences * taps, channels).index_copy(1, rows, x)
    if state is not None:
        starts = bounds[:-1] + torch.arange(sequences, device=x.device) * taps
        history_rows = starts[:, None] + torch.arange(taps, device=x.device)
        history = state.transpose(1, 2).reshape(1, -1, channels).to(x.dtype)
        padded = padded.index_copy(1, history_rows.flatten(), history)
    return padded, rows, ends


def shifted(padded: torch.Tensor, rows: torch.Tensor | None, offset: int, length: int) -> torch.Tensor:
    """Return for each token the input `offset` (≤ 0) tokens away: [B, T, D]."""
    if rows is None:
        return padded[:, padded.shape[1] - length + offset :][:, :length]
    return padded.index_select(1, rows + offset)


def last_inputs(padded: torch.Tensor, ends: torch.Tensor, taps: int) -> torch.Tensor:
    """Return the `taps` rows before each of `ends`, channels first: [N, D, W]."""
    rows = ends[:, None] + torch.arange(-taps, 0, device=ends.device)
    batch, _, channels = padded.shape
    return padded[:, rows].reshape(batch * ends.numel(), taps, channels).transpose(1, 2).contiguous()
