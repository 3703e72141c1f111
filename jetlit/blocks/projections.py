"""Linear layers that share an input: fewer products forward, one sum of their gradients instead of a tensor each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jetlit.errors import UserError


def project(x: Tensor, layers: Sequence[nn.Linear]) -> list[Tensor]:
    """Apply several linear layers to one input [..., H]; the result is that of `[layer(x) for layer in layers]`.

    With gradients, autocast casts the input once. Its gradient is summed inside the products that make it, in their
    dtype and in a fixed order. Layers that are more than their weights (`is_plain`) are called.

    Returns:
        One tensor [..., width] for each layer; those of narrow layers (at most H / 2 wide) may be slices of one tensor.
    """
    if not all(is_plain(layer) for layer in layers):
        return [layer(x) for layer in layers]
    groups = _groups(layers)
    weights = [_joined([layer.weight for layer in group]) for group in groups]
    biases = [None if group[0].bias is None else _joined([layer.bias for layer in group]) for group in groups]
    trained = (t for t in (x, *weights, *biases) if t is not None)
    if torch.is_grad_enabled() and any(t.requires_grad for t in trained):
        products = _SharedInput.apply(x, *weights, *biases)
    else:
        products = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    outputs: dict[nn.Linear, Tensor] = {}
    for group, product in zip(groups, products, strict=True):
        # The gradient of a split is a concatenation: of one part alone, a copy.
        parts = [product] if len(group) == 1 else product.split([layer.out_features for layer in group], -1)
        outputs |= zip(group, parts, strict=True)
    return [outputs[layer] for layer in layers]


def _groups(layers: Sequence[nn.Linear]) -> list[list[nn.Linear]]:
    """Group layers by product: each wide one alone, narrow ones with and without biases together.

    A narrow layer, at most half as wide as its input, leaves most of a GPU idle alone. Wide outputs would pay for
    being slices: the kernels that read them copy them first.
    """
    wide = [[layer] for layer in layers if 2 * layer.out_features > layer.in_features]
    narrow = [layer for layer in layers if 2 * layer.out_features <= layer.in_features]
    plain = [layer for layer in narrow if layer.bias is None]
    biased = [layer for layer in narrow if layer.bias is not None]
    return [*wide, *(group for group in (plain, biased) if group)]


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PLAIN_TENSORS = (nn.Parameter, Tensor, type(None))

Module = TypeVar("Module", bound=nn.Module)


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Return whether a module is of this class and no more than its tensors, so that they may be read past its call.

    A subclass, a hook, a forward of the instance's own, or a parameter that is a tensor subclass says that it is more:
    an adapter, a parametrization, quantization, weights that are offloaded or sharded.
    """
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not any(getattr(module, hooks) for hooks in _HOOKS)
        and all(type(parameter) in _PLAIN_TENSORS for parameter in module._parameters.values())
    )


def checked(module: Module, kind: type[nn.Module] = nn.Linear) -> Module:
    """Return a module whose weights will be read past its call; raise UserError unless it `is_plain`."""
    if not is_plain(module, kind):
        raise UserError(
            f"Only plain layers' weights can be read, not those of {type(module).__name__} with an adapter, a hook, or "
            "quantized or offloaded weights: merge adapters into the weights and remove hooks, load the model "
            "unquantized on one device, or use model.generate."
        )
    return module


def check_projections(attention: Any) -> None:
    """Raise UserError unless the four projections of an attention are plain: their weights will be copied."""
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        checked(layer)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


class _SharedInput(torch.autograd.Function):
    """x, n weights and n biases (or None) to n products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        shared, *cast = (t.to(dtype) for t in (x, *weights) if t is not None)
        ctx.save_for_backward(shared, *cast)
        ctx.types = [None if t is None else t.dtype for t in (x, *parameters)]
        with torch.autocast(device, enabled=False):
            return tuple(F.linear(shared, w, b if b is None else b.to(dtype)) for w, b in zip(cast, biases))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        rows = x.flatten(0, -2)
        count = len(weights)
        of_x: Tensor | None = None
        of_parameters: list[Tensor | None] = [None] * (2 * count)
        with torch.autocast(x.device.type, enabled=False):
            for number, (gradient, weight) in enumerate(zip(upstream, weights, strict=True)):
                gradient = gradient.flatten(0, -2)
                if ctx.needs_input_grad[0]:
                    of_x = gradient @ weight if of_x is None else of_x.addmm_(gradient, weight)
                if ctx.needs_input_grad[1 + number]:
                    of_parameters[number] = _product(gradient.T, rows, ctx.types[1 + number])
                if ctx.needs_input_grad[1 + count + number]:
                    of_parameters[count + number] = gradient.sum(0, dtype=ctx.types[1 + count + number])
        return None if of_x is None else of_x.view_as(x).to(ctx.types[0]), *of_parameters


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a product in another dtype than its factors', without rounding to theirs where the device can."""
    if a.dtype == dtype:
        return a @ b
    if a.is_cuda and dtype == torch.float32 and not torch.compiler.is_compiling():
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)
