"""Projections of one input as one product, without copies of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn

from jetlit.blocks.projections import checked


def merge_linears(linears: Sequence[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Place the weights of linear layers with the same input one after the other in memory.

    The layers' parameters become views of the result: they keep their names and values, can be trained, and changing
    one in place changes the merged weight. Layers that were merged before stay in place.

    Returns:
        Weight [sum of outputs, inputs] and bias [sum of outputs], zero for layers without one; None if none has one.

    Raises:
        UserError: a layer is not a plain linear one.
    """
    for linear in linears:
        checked(linear)
    weight = _merge([linear.weight for linear in linears])
    if all(linear.bias is None for linear in linears):
        return weight, None
    if all(linear.bias is not None for linear in linears):
        return weight, _merge([linear.bias for linear in linears])
    return weight, _merge_some([linear.bias for linear in linears], [linear.out_features for linear in linears])


def _merge(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    if _lie_in_order(parameters):
        first = parameters[0].detach()
        return first.as_strided((sum(len(p) for p in parameters), *first.shape[1:]), first.stride())
    return _joined(parameters, [len(p) for p in parameters])


def _merge_some(biases: Sequence[torch.Tensor | None], sizes: Sequence[int]) -> torch.Tensor:
    """Merge biases of which some are missing; zeros stand for those."""
    present = [bias for bias in biases if bias is not None]
    total, first = sum(sizes), present[0].detach()
    storage = first.untyped_storage()
    # A storage of just this size is one that an earlier merge made.
    offsets = [offset for offset, bias in zip(accumulate(sizes, initial=0), biases) if bias is not None]
    places = [storage.data_ptr() + offset * first.itemsize for offset in offsets]
    if storage.nbytes() == total * first.itemsize and places == [bias.data_ptr() for bias in present]:
        return first.as_strided((total,), (1,), 0)
    return _joined([first.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes)], sizes)


def _joined(parameters: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """Copy parameters into one tensor and make them views of it."""
    # Parameters that will be trained must not become inference tensors, nor the reverse.
    like = next(p for p in parameters if isinstance(p, torch.nn.Parameter))
    with torch.inference_mode(like.is_inference()), torch.no_grad():
        merged = torch.cat([p.detach() for p in parameters])
        for parameter, part in zip(parameters, merged.split(list(sizes)), strict=True):
            parameter.data = part
    return merged


def _lie_in_order(parameters: Sequence[torch.Tensor]) -> bool:
    """Say whether each tensor begins in memory where the one before it ends."""
    ends = [p.data_ptr() + p.nbytes for p in parameters]
    same_memory = len({p.untyped_storage().data_ptr() for p in parameters}) == 1
    in_order = all(p.data_ptr() == end for p, end in zip(parameters[1:], ends))
    return same_memory and in_order and all(p.is_contiguous() for p in parameters)
