"""Custom operators, called past their dispatch where no compiler looks.

Compilers need an operator: one node that they neither trace into nor break at. But calling one costs some 0.1 ms of
host time in each direction beside its kernels, Python's share of torch.library's dispatch, and a JetBlock calls three.
Eager mode takes a plain autograd function of the same parts instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Call = Callable[..., Any]


def is_eager(values: tuple[Any, ...]) -> bool:
    """Whether no compiler is tracing and every tensor is a plain one, not a fake or other stand-in."""
    return not torch.compiler.is_compiling() and all(
        type(value) in (torch.Tensor, torch.nn.Parameter) for value in values if isinstance(value, torch.Tensor)
    )


def without_gradient(operator: Call, function: Call) -> Call:
    """Returns a function that calls `function` in eager mode and the operator made of it elsewhere."""

    def call(*values: Any) -> Any:
        return function(*values) if is_eager(values) else operator(*values)

    return call


def differentiable(operator: Any, function: Call, setup_context: Call, backward: Call) -> Call:
    """Registers an operator's gradient, and returns a function like `without_gradient`'s that has the same gradient.

    Args:
        operator: made by `torch.library.custom_op` of `function`.
        function: runs the kernels.
        setup_context: saves for the backward pass, as `torch.autograd.Function.setup_context`.
        backward: as `torch.autograd.Function.backward`.
    """
    operator.register_autograd(backward, setup_context=setup_context)
    parts = {"forward": function, "setup_context": setup_context, "backward": backward}
    plain: Any = type("Eager", (torch.autograd.Function,), {name: staticmethod(part) for name, part in parts.items()})
    return without_gradient(operator, plain.apply)
