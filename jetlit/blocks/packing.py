"""Sequences packed into one row, and the tokens before them that a convolution or a token shift looks back at."""

from __future__ import annotations

import torch

from jetlit.blocks.base import CarriedState


def sequence_index(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
    """Return for each of `length` packed tokens the index of its sequence, [length] int64."""
    positions = torch.arange(length, device=cu_seqlens.device)
    return torch.bucketize(positions, cu_seqlens[1:].to(torch.int64), right=True)


def packed_positions(cu_seqlens: torch.Tensor, length: int) -> torch.Tensor:
    """Return the position of each of `length` packed tokens within its sequence, [length] int64."""
    start = cu_seqlens[:-1].to(torch.int64)[sequence_index(cu_seqlens, length)]
    return torch.arange(length, device=cu_seqlens.device) - start


class SequencesWithHistory:
    """Each sequence of `x` [B, T, D], with the last `depth` inputs before it in front (zeros at a sequence's start).

    These inputs are read from `state` under `name`, [N, D, depth], oldest first, and the new ones are written there.

    Attributes:
        rows: [B, depth + T, D], or for N packed sequences [1, N·depth + T, D].
    """

    def __init__(
        self, x: torch.Tensor, state: CarriedState, name: str, depth: int, cu_seqlens: torch.Tensor | None
    ) -> None:
        self._depth, self._places = depth, None
        sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        history = state.read(name)
        past = x.new_zeros(sequences, depth, x.shape[2]) if history is None else history.transpose(1, 2).to(x.dtype)
        if cu_seqlens is None:
            self.rows = torch.cat((past, x), 1)
            if state.kept:
                state.write(name, self.rows[:, x.shape[1] :].transpose(1, 2))
        else:
            bounds = cu_seqlens.to(x.device, torch.long)
            shift = torch.arange(1, sequences + 1, device=x.device) * depth
            self._places = torch.arange(x.shape[1], device=x.device) + shift[sequence_index(bounds, x.shape[1])]
            past_places = (bounds[:-1] + shift - depth)[:, None] + torch.arange(depth, device=x.device)
            rows = x.new_zeros(1, sequences * depth + x.shape[1], x.shape[2])
            rows = rows.index_copy(1, past_places.flatten(), past.reshape(1, -1, x.shape[2]))
            self.rows = rows.index_copy(1, self._places, x)
            if state.kept:
                last = (bounds[1:] + shift)[:, None] + torch.arange(-depth, 0, device=x.device)
                state.write(name, self.rows[0, last].transpose(1, 2))

    def at_tokens(self, rows: torch.Tensor, lag: int) -> torch.Tensor:
        """Return, for every token, the row `lag` places before its own: [B, T, D].

        Args:
            rows: [B, R, D], one for each of the first R of `self.rows`.
            lag: 0 to `depth`.
        """
        if self._places is None:
            return rows.narrow(1, self._depth - lag, self.rows.shape[1] - self._depth)
        return rows.index_select(1, self._places - lag)
