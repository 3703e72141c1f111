"""The short causal convolution that linear blocks put on queries, keys and values, and the blocks' base with it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState, LinearMixer, StateSpec
from jetlit.blocks.history import SequencesWithHistory
from jetlit.errors import UserError


class ShortConvolution(nn.Module):
    """A causal convolution of each channel over its last W inputs, then SiLU.

    Args:
        channels: D.
        taps: W.
        bias: whether each channel has a bias.

    Raises:
        UserError: there are less than two taps.
    """

    def __init__(self, channels: int, taps: int, bias: bool = False) -> None:
        super().__init__()
        if taps < 2:
            raise UserError(f"A short convolution needs conv_size of at least 2, not {taps}: correct the config.")
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the kernels as torch.nn.Conv1d does; biases start at zero."""
        bound = 1 / math.sqrt(self.taps)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.zeros_(self.bias)

    def pass_through(self) -> None:
        """Makes the convolution the identity: only the current token's tap is open."""
        self.weight.zero_()
        self.weight[..., -1] = 1

    def forward(
        self, x: torch.Tensor, state: CarriedState, name: str, cu_seqlens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolves [B, T, D], then SiLU; carries the last W inputs [N, D, W] in `state` under `name`."""
        return F.silu(self.convolve(x, state, name, cu_seqlens))

    def convolve(
        self, x: torch.Tensor, state: CarriedState, name: str, cu_seqlens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same before SiLU, for an operator that begins with it."""
        sequences = SequencesWithHistory(x, state.read(name), self.taps, cu_seqlens)
        if state.kept:
            state.write(name, sequences.last())
        y = F.conv1d(sequences.rows.transpose(1, 2), self.weight, self.bias, groups=x.shape[2]).transpose(1, 2)
        # Row r of y ends at row r + W - 1 of the inputs.
        return sequences.at_tokens(y, self.taps - 1)


class ConvolvedMixer(LinearMixer):
    """A linear block with a short convolution and SiLU on queries, keys and values.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias.
        norm_eps: epsilon of the output norm.
        conv_size: W, taps of the convolutions.
        conv_bias: whether the convolutions have a bias.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 1.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        conv_size: int = 4,
        conv_bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps)
        self.q_conv1d = ShortConvolution(self.key_dim, conv_size, conv_bias)
        self.k_conv1d = ShortConvolution(self.key_dim, conv_size, conv_bias)
        self.v_conv1d = ShortConvolution(self.value_dim, conv_size, conv_bias)

    def convolved_heads(
        self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns q, k [B, T, h, K] after convolution, SiLU still to come, and v [B, T, h, V] after both."""
        q = self.q_conv1d.convolve(self.q_proj(hidden), state, "conv_q", cu_seqlens)
        k = self.k_conv1d.convolve(self.k_proj(hidden), state, "conv_k", cu_seqlens)
        v = self.v_conv1d(self.v_proj(hidden), state, "conv_v", cu_seqlens)
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def state_specs(self) -> dict[str, StateSpec]:
        """The recurrent state and the last inputs of the three convolutions."""
        keys = StateSpec((self.key_dim, self.q_conv1d.taps), None)
        values = StateSpec((self.value_dim, self.v_conv1d.taps), None)
        return super().state_specs() | {"conv_q": keys, "conv_k": keys, "conv_v": values}

    def init_weights(self) -> None:
        """Initialises the convolutions."""
        for convolution in (self.q_conv1d, self.k_conv1d, self.v_conv1d):
            convolution.init_weights()

    def after_inheriting(self) -> None:
        """Lets the projections that come from attention pass through the convolutions."""
        for convolution in (self.q_conv1d, self.k_conv1d, self.v_conv1d):
            convolution.pass_through()
