"""Parameters of the decays, initialised for a sensible length of memory."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init


def no_weight_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Flags a parameter that optimisers must not decay; returns it."""
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def init_decay(A_log: torch.Tensor, dt_bias: torch.Tensor, a_min: float = 0.0, a_max: float = 16.0) -> None:
    """Initialises g = −exp(A_log) · softplus(… + dt_bias) as Mamba2 and the released JetBlock do.

    A ~ U(a_min, a_max), A_log = log A; dt log-uniform in [1e-3, 0.1], floored at 1e-4, dt_bias its inverse softplus.

    Args:
        A_log: [h].
        dt_bias: [h].
        a_min: lower end of A.
        a_max: upper end of A.
    """
    a = torch.empty_like(A_log, dtype=torch.float32).uniform_(a_min, a_max)
    init.copy_(A_log, a.log())
    low, high = math.log(1e-3), math.log(0.1)
    dt = torch.empty_like(dt_bias, dtype=torch.float32).uniform_(low, high).exp().clamp(min=1e-4)
    init.copy_(dt_bias, dt + torch.log(-torch.expm1(-dt)))


def spread_memory(count: int, shortest: float, longest: float, like: torch.Tensor) -> torch.Tensor:
    """Returns `count` log decays whose lengths of memory (1 / −g tokens) are log-uniform from short to long.

    Args:
        count: number of channels.
        shortest: tokens.
        longest: tokens.
        like: gives the device.
    """
    return -torch.logspace(-math.log10(shortest), -math.log10(longest), count, device=like.device)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Returns `x` in float32, or unchanged when it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
