"""Parameters of the decays, initialised for a sensible length of memory."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init

SHORTEST_MEMORY, LONGEST_MEMORY = 16.0, 1024.0  # tokens


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


def spread_memory(
    count: int, like: torch.Tensor, shortest: float = SHORTEST_MEMORY, longest: float = LONGEST_MEMORY
) -> torch.Tensor:
    """Returns `count` log decays g whose lengths of memory, −1 / g tokens, are log-uniform from short to long.

    Args:
        count: number of channels or heads.
        like: gives the device.
        shortest: tokens.
        longest: tokens.
    """
    return -torch.logspace(-math.log10(shortest), -math.log10(longest), count, device=like.device)


def spread_decay(A_log: torch.Tensor, dt_bias: torch.Tensor) -> None:
    """Lets heads that start from attention, which forgets nothing, remember from 16 to 1,024 tokens.

    The usual random decays (`init_decay`) mostly forget within a dozen tokens, and with few heads perhaps all do.

    Args:
        A_log: [h], changed in place; g = −exp(A_log) · softplus(… + dt_bias).
        dt_bias: [h], changed in place.
    """
    A_log.zero_()
    dt_bias.copy_((-spread_memory(len(dt_bias), dt_bias)).expm1().log())


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Returns `x` in float32, or unchanged when it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
