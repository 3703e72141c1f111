"""Sequences with the tokens that came before them: what a short convolution and a token shift look back at."""

from __future__ import annotations

import torch

from jetlit.blocks.masks import sequence_index
from jetlit.blocks.state import CarriedState


class SequencesWithHistory:
    """Each sequence of `x`, with the last `depth` inputs before it in front (zeros at a sequence's start).

    Reads these inputs from `state` under `name`, [N, D, depth], oldest first, and writes the new ones there.

    Args:
        x: [B, T, D]; B is 1 with `cu_seqlens`.
        state: the layer's.
        name: of the inputs in the state.
        depth: how many inputs are kept.
        cu_seqlens: [N + 1] bounds of packed sequences, or None.

    Attributes:
        rows: [B, depth + T, D], or for N packed sequences [1, N·depth + T, D].
    """

    def __init__(
        self, x: torch.Tensor, state: CarriedState, name: str, depth: int, cu_seqlens: torch.Tensor | None
    ) -> None:
        self._depth, self._places, self._ends = depth, None, None
        sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        history = state.read(name)
        past = x.new_zeros(sequences, depth, x.shape[2]) if history is None else history.transpose(1, 2).to(x.dtype)
        if cu_seqlens is None:
            self.rows = torch.cat((past, x), 1)
        else:
            bounds = cu_seqlens.to(x.device, torch.long)
            shift = torch.arange(1, sequences + 1, device=x.device) * depth
            self._places = torch.arange(x.shape[1], device=x.device) + shift[sequence_index(bounds, x.shape[1])]
            self._ends = bounds[1:] + shift
            past_places = (bounds[:-1] + shift - depth)[:, None] + torch.arange(depth, device=x.device)
            rows = x.new_zeros(1, sequences * depth + x.shape[1], x.shape[2])
            rows = rows.index_copy(1, past_places.flatten(), past.reshape(1, -1, x.shape[2]))
            self.rows = rows.index_copy(1, self._places, x)
        if state.kept:
            state.write(name, self._last())

    def at_tokens(self, rows: torch.Tensor, lag: int) -> torch.Tensor:
        """Return, for every token, the row `lag` places before its own: [B, T, D].

        Args:
            rows: [B, R, D], one for each of the first R of `self.rows`.
            lag: 0 to `depth`.
        """
        if self._places is None:
            return rows.narrow(1, self._depth - lag, self.rows.shape[1] - self._depth)
        return rows.index_select(1, self._places - lag)

    def _last(self) -> torch.Tensor:
        """Return the last `depth` inputs of every sequence, oldest first: [N, D, depth]."""
        if self._ends is None:
            return self.rows[:, self.rows.shape[1] - self._depth :].transpose(1, 2)
        index = self._ends[:, None] + torch.arange(-self._depth, 0, device=self.rows.device)
        return self.rows[0, index].transpose(1, 2)
