"""Norms over all processes."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


def global_grad_norm(optimizer: Optimizer) -> Tensor:
    """Return the norm of an optimizer's gradients over all processes that share them. No gradient changes."""
    return global_norm(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of tensors, those that are spread over processes (DTensors) taken whole."""
    norm = torch.nn.utils.get_total_norm(list(tensors))
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
