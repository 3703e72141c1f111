"""The short causal convolution that linear blocks put on queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jetlit_kernels import short_conv
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import BlockPart, CarriedState, StateSpec
from jetlit.errors import UserError


class ShortConvolution(BlockPart):
    """A causal convolution of each of D channels over its last W inputs.

    The inputs are carried as `state_name`, [N, D, W].

    Raises:
        UserError: there are fewer than two taps.
    """

    def __init__(self, state_name: str, channels: int, taps: int, bias: bool = False) -> None:
        super().__init__()
        if taps < 2:
            raise UserError(f"A short convolution needs conv_size of at least 2, not {taps}: correct the config.")
        self.state_name, self.taps = state_name, taps
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the kernels as torch.nn.Conv1d does; set biases to zero."""
        bound = 1 / math.sqrt(self.taps)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.zeros_(self.bias)

    def pass_through(self) -> None:
        """Make the convolution the identity: only the current token's tap is open."""
        self.weight.zero_()
        self.weight[..., -1] = 1

    def state_specs(self) -> dict[str, StateSpec]:
        """Return the spec of the last inputs."""
        return {self.state_name: StateSpec((len(self.weight), self.taps), None)}

    def forward(
        self,
        x: torch.Tensor,
        state: CarriedState,
        cu_seqlens: torch.Tensor | None,
        activation: Literal["silu"] | None = None,
    ) -> torch.Tensor:
        """Convolve [B, T, D]. The activation is optional, since some recurrences begin with it."""
        y, final = short_conv(
            x,
            self.weight[:, 0],
            self.bias,
            activation=activation,
            state=state.read(self.state_name),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
        )
        state.write(self.state_name, final)
        return y

    def step_arguments(self, name: str, states: Mapping[str, torch.Tensor], batch: int) -> dict[str, Any]:
        """Return what `jetlit_kernels.recurrent_step` takes to convolve its input `name` ("q", "k" or "v")."""
        kernels = self.weight[:, 0].expand(batch, -1, -1)
        return {f"{name}_kernels": kernels, f"{name}_bias": self.bias, f"{name}_window": states[self.state_name]}
