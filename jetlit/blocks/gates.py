"""Parameters of decays, initialized for a sensible length of memory."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init


def no_weight_decay(module: nn.Module, *names: str) -> None:
    """Name parameters of a module that optimizers must not decay.

    The module keeps the names: a mark on a parameter alone is lost when it is copied, sharded or loaded.
    """
    module._no_weight_decay = names  # type: ignore[assignment]
    for name in names:
        module.get_parameter(name)._no_weight_decay = True  # type: ignore[attr-defined]


def init_decay(A_log: torch.Tensor, dt_bias: torch.Tensor, a_min: float = 0.0) -> None:
    """Initialize g = −exp(A_log) · softplus(… + dt_bias) as Mamba2 and the released JetBlock do.

    A ~ U(a_min, 16), A_log = log A; dt log-uniform in [1e-3, 0.1], dt_bias its inverse softplus. Both are [h].
    """
    a = torch.empty_like(A_log, dtype=torch.float32).uniform_(a_min, 16.0)
    init.copy_(A_log, a.log())
    low, high = math.log(1e-3), math.log(0.1)
    dt = torch.empty_like(dt_bias, dtype=torch.float32).uniform_(low, high).exp().clamp(min=1e-4)
    init.copy_(dt_bias, dt + torch.log(-torch.expm1(-dt)))


def spread_memory(count: int, like: torch.Tensor, shortest: float = 16.0) -> torch.Tensor:
    """Return `count` log decays g on the device of `like`.

    Their lengths of memory, −1 / g tokens, are log-uniform from `shortest` to 1,024.
    """
    return -torch.logspace(-math.log10(shortest), -math.log10(1024.0), count, device=like.device)


def spread_decay(A_log: torch.Tensor, dt_bias: torch.Tensor) -> None:
    """Let heads that start from attention, which forgets nothing, remember from 16 to 1,024 tokens.

    The random decays of `init_decay` mostly forget within a dozen tokens, and with few heads perhaps all do.
    """
    A_log.zero_()
    dt_bias.copy_((-spread_memory(len(dt_bias), dt_bias)).expm1().log())


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32, or unchanged when it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
