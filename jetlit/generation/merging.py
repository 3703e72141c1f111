"""Projections of one input as one product, without copies of their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from jetlit.blocks.projections import checked


def merge_linears(linears: Sequence[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Place the weights of linear layers with the same input one after the other in memory.

    The layers' parameters become views of the result: they keep their names and values, can be trained, and changing
    one in place changes the merged weight. Layers that were merged before stay in place. All or none have a bias.

    Returns:
        Weight [sum of outputs, inputs] and bias [sum of outputs] or None.

    Raises:
        UserError: a layer is not a plain linear one.
    """
    for linear in linears:
        checked(linear)
    weight = _merge([linear.weight for linear in linears])
    if linears[0].bias is None:
        return weight, None
    return weight, _merge([linear.bias for linear in linears])


def _merge(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    if _lie_in_order(parameters):
        first = parameters[0].detach()
        return first.as_strided((sum(len(p) for p in parameters), *first.shape[1:]), first.stride())
    # Parameters that will be trained must not become inference tensors, nor the reverse.
    with torch.inference_mode(parameters[0].is_inference()), torch.no_grad():
        merged = torch.cat([p.detach() for p in parameters])
        for parameter, part in zip(parameters, merged.split([len(p) for p in parameters]), strict=True):
            parameter.data = part
    return merged


def _lie_in_order(parameters: Sequence[torch.Tensor]) -> bool:
    """Say whether each tensor begins in memory where the one before it ends."""
    ends = [p.data_ptr() + p.nbytes for p in parameters]
    same_memory = len({p.untyped_storage().data_ptr() for p in parameters}) == 1
    in_order = all(p.data_ptr() == end for p, end in zip(parameters[1:], ends))
    return same_memory and in_order and all(p.is_contiguous() for p in parameters)
