"""Norms over all processes, whoever holds what."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from jetlit.recipes.flat_sharding import flat_root


def gradient_norm(trainer: Any, optimizer: Optimizer) -> Tensor:
    """The norm of an optimizer's gradients over all processes that share them; no gradient changes."""
    root = flat_root(trainer)
    if root is not None:
        return root.clip_grad_norm_(float("inf"))
    return total_norm(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of tensors, those that are spread over processes (DTensors) taken whole."""
    norm = torch.nn.utils.get_total_norm(list(tensors))
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
