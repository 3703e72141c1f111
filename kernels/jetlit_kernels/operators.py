"""PyTorch operators made of kernels: one node for compilers, a plain call in eager mode.

A compiler needs an operator: one node that it neither traces into nor breaks at. But calling one costs some 0.1 ms of
host time in each direction beside its kernels, Python's share of torch.library's dispatch, and a JetBlock calls three.
Eager mode takes a plain autograd function of the same parts instead.

The arguments of an operator are listed once, as a NamedTuple: tensors first, then numbers. The operator's schema is
read off it, and every function that an operator is made of takes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import torch

Call = Callable[..., Any]

_SCHEMA_TYPES = {torch.Tensor: "Tensor", torch.Tensor | None: "Tensor?", float: "float", bool: "bool"}


def is_eager(values: tuple[Any, ...]) -> bool:
    """Return whether no compiler is tracing and every tensor is a plain one, not a fake or other stand-in."""
    return not torch.compiler.is_compiling() and all(
        type(value) in (torch.Tensor, torch.nn.Parameter) for value in values if isinstance(value, torch.Tensor)
    )


def contiguous(*tensors: Any) -> tuple[Any, ...]:
    """Return the tensors, each contiguous or None."""
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def define(
    name: str,
    arguments: type[Any],
    run: Call,
    fake: Call,
    *,
    results: int = 1,
    leading: tuple[str, ...] = (),
    mutates: tuple[str, ...] = (),
) -> Any:
    """Define an operator.

    Args:
        name: "namespace::name".
        arguments: the NamedTuple of its arguments.
        run: launches the kernels; takes the values of `leading` and `arguments`, and returns the results.
        fake: takes the same and returns tensors like the results.
        results: number of tensors that it returns.
        leading: names of tensors that come before the arguments; a "?" at a name's end marks one that may be None.
        mutates: names of the arguments that it writes.

    Returns:
        The operator, as `torch.library.custom_op` returns it.
    """
    declared = [f"Tensor{'?' * name.endswith('?')} {name.rstrip('?')}" for name in leading]
    for field, kind in get_type_hints(arguments).items():
        schema_type = _SCHEMA_TYPES[kind]
        if field in mutates:
            schema_type = schema_type.replace("Tensor", f"Tensor(a{len(declared)}!)")
        declared.append(f"{schema_type} {field}")
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    schema = f"({', '.join(declared)}) -> {returned}"
    operator = torch.library.custom_op(name, run, mutates_args=mutates, schema=schema)
    operator.register_fake(fake)
    return operator


def differentiable(
    name: str,
    arguments: type[Any],
    forward: Call,
    fake: Call,
    backward: Call,
    fake_backward: Call,
    *,
    results: int = 1,
    kept: int = 0,
    gradients: int,
) -> tuple[Any, Call]:
    """Define an operator with a gradient, which is an operator too: `name` and `name`_backward.

    Args:
        name: "namespace::name".
        arguments: the NamedTuple of its arguments.
        forward: called with `arguments`; returns the results.
        fake: called with `arguments`; returns tensors like the results.
        backward: called with `arguments`, a tuple of the kept results, and the gradients of the others; returns the
            gradients of the first `gradients` arguments, an empty tensor for one that is None. Where there are several
            results, a gradient may be None.
        fake_backward: called with `arguments`; returns tensors like the gradients.
        results: number of tensors that `forward` returns.
        kept: number of results, the last ones, that only the backward pass takes.
        gradients: number of arguments, the first ones, that have a gradient.

    Returns:
        The operator, and a function that takes the arguments one by one: in eager mode it passes the operator's
        dispatch, elsewhere it calls the operator.
    """
    hints = get_type_hints(arguments)
    tensors = sum(kind not in (float, bool) for kind in hints.values())
    given = results - kept  # results whose gradients come back
    leading = (*(f"d_{n}{'?' * (given > 1)}" for n in range(given)), *(f"kept_{n}" for n in range(kept)))

    def run(*values: Any) -> Any:
        return forward(arguments._make(values))

    def run_backward(*values: Any) -> Any:
        inputs = arguments._make(values[results:])
        return backward(inputs, values[given:results], *values[:given])

    operator = define(name, arguments, run, lambda *values: fake(arguments._make(values)), results=results)
    backward_operator = define(
        f"{name}_backward",
        arguments,
        run_backward,
        lambda *values: fake_backward(arguments._make(values[results:])),
        results=gradients,
        leading=leading,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors], *(output[given:] if kept else ()))
        ctx.numbers = tuple(inputs[tensors:])
        # Zeros for the results that nobody used would cost a pass over memory.
        ctx.set_materialize_grads(given == 1)

    def differentiate(ctx: Any, *d_results: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        values = (*d_results[:given], *saved[tensors:], *saved[:tensors], *ctx.numbers)
        found = run_backward(*values) if is_eager(values) else backward_operator(*values)
        found = (found,) if gradients == 1 else found
        needed = zip(found, saved, ctx.needs_input_grad)
        of_first = [gradient.to(x.dtype) if need else None for gradient, x, need in needed]
        return *of_first, *(None,) * (len(hints) - gradients)

    operator.register_autograd(differentiate, setup_context=save)
    parts = {"forward": run, "setup_context": save, "backward": differentiate}
    eager: Any = type("Eager", (torch.autograd.Function,), {name: staticmethod(part) for name, part in parts.items()})
    apply = eager.apply

    def call(*values: Any) -> Any:
        return apply(*values) if is_eager(values) else operator(*values)

    return operator, call
