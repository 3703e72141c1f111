"""The gated delta rule's Triton kernels as PyTorch operators: autograd, torch.compile and export see one node each."""

from __future__ import annotations

from typing import Any

import torch

from jetlit_kernels.dispatch import announce, resolve_backend
from jetlit_kernels.operators import differentiable, without_gradient

# The launchers are imported where they are called: Triton is absent on some machines, where nothing calls them.

LARGEST_KEY = 256  # the widest K of the kernels

Gradients = tuple[torch.Tensor | None, ...]


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    scale: float,
    l2norm: bool,
    silu: bool,
    save: bool,
) -> tuple[torch.Tensor, ...]:
    """Runs the gated delta rule, or linear attention when beta is None.

    Returns o [B, T, H, V], the final states [N, H, K, V], and four tensors for the backward pass.
    """
    from jetlit_kernels.gated_delta_rule import forward as launcher

    q, k, v, g = (t.contiguous() for t in (q, k, v, g))
    beta, initial_state = _contiguous(beta), _contiguous(initial_state)
    return launcher.forward(q, k, v, g, beta, initial_state, cu_seqlens, scale, l2norm, silu, save)


gated_delta_rule_op = torch.library.custom_op(
    "jetlit_kernels::gated_delta_rule",
    _forward,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? beta, Tensor? initial_state, Tensor? cu_seqlens, "
    "float scale, bool l2norm, bool silu, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@gated_delta_rule_op.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    scale: float,
    l2norm: bool,
    silu: bool,
    save: bool,
) -> tuple[torch.Tensor, ...]:
    from jetlit_kernels.gated_delta_rule import forward as launcher

    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (q.shape[2], q.shape[3], v.shape[3])
    return (
        torch.empty_like(v, memory_format=torch.contiguous_format),
        q.new_empty(sequences, *shape, dtype=torch.float32),
        *launcher.empty_kept(q, v, cu_seqlens, beta is not None, save),
    )


def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    kept: list[torch.Tensor],
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
    l2norm: bool,
    silu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of q, k, v, g, beta and of the initial states (empty where there is none)."""
    from jetlit_kernels.gated_delta_rule import backward as launcher
    from jetlit_kernels.gated_delta_rule.plan import Kept

    q, k, v, g, do = (t.contiguous() for t in (q, k, v, g, do))
    beta, initial_state, d_final = (_contiguous(t) for t in (beta, initial_state, d_final))
    return launcher.backward(q, k, v, g, beta, initial_state, cu_seqlens, Kept(*kept), do, d_final, scale, l2norm, silu)


gated_delta_rule_backward_op = torch.library.custom_op(
    "jetlit_kernels::gated_delta_rule_backward",
    _gradients,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? beta, Tensor? initial_state, Tensor? cu_seqlens, "
    "Tensor[] kept, Tensor do, Tensor? d_final, float scale, bool l2norm, bool silu) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@gated_delta_rule_backward_op.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    kept: list[torch.Tensor],
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
    l2norm: bool,
    silu: bool,
) -> tuple[torch.Tensor, ...]:
    like_inputs = (
        g.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (q, k, v, g, beta)
    )
    d_initial = q.new_empty((0,) if initial_state is None else initial_state.shape, dtype=torch.float32)
    return (*like_inputs, d_initial)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, g, beta, initial_state, cu_seqlens, scale, l2norm, silu, _ = inputs
    ctx.save_for_backward(q, k, v, g, beta, initial_state, cu_seqlens, *output[2:])
    ctx.scale, ctx.l2norm, ctx.silu = scale, l2norm, silu
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, do: torch.Tensor | None, d_final: torch.Tensor | None, *of_kept: None) -> Gradients:
    q, k, v, g, beta, initial_state, cu_seqlens, *kept = ctx.saved_tensors
    do = torch.zeros_like(v) if do is None else do
    *gradients, d_beta, d_initial = _call_backward(
        q, k, v, g, beta, initial_state, cu_seqlens, kept, do, d_final, ctx.scale, ctx.l2norm, ctx.silu
    )
    d_beta = None if beta is None else d_beta
    d_initial = None if initial_state is None else d_initial.to(initial_state.dtype)
    return *gradients, d_beta, d_initial, None, None, None, None, None


_call_backward = without_gradient(gated_delta_rule_backward_op, _gradients)
_call = differentiable(gated_delta_rule_op, _forward, _setup_context, _backward)


def runs_on_triton(operator: str, q: torch.Tensor, backend: str) -> bool:
    """Decides whether an operator on q [B, T, H, K] runs on the kernels; the log says once which way was taken.

    Raises:
        ValueError: the backend is unknown, or it is "triton" and cannot run; the message says why.
    """
    if resolve_backend(backend, q) == "torch":
        announce(operator, f"plain PyTorch on {q.device.type}")
        return False
    if q.shape[-1] <= LARGEST_KEY and q.shape[1] > 0:
        announce(operator, "Triton kernels")
        return True
    reason = f"the Triton kernels hold keys of 1 to {LARGEST_KEY} columns and at least one token, not {tuple(q.shape)}"
    if backend == "triton":
        raise ValueError(f'backend="triton" cannot run: {reason}; pass backend="torch".')
    announce(operator, f"plain PyTorch, since {reason}")
    return False


def in_one_dtype(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns q, k and v in the one type that the kernels take: bfloat16 or float32.

    float16 lacks the range of a state, so it is computed in float32.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return q.to(dtype), k.to(dtype), v.to(dtype)


def run_on_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None,
    beta: torch.Tensor | None,
    scale: float,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    l2norm: bool,
    silu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the gated delta rule, or linear attention when beta is None, for the public functions of these names.

    Returns:
        o [B, T, H, V] in the dtype of v, and the final states [N, H, K, V] in float32.
    """
    result = v.dtype
    q, k, v = in_one_dtype(q, k, v)
    g = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device) if g is None else g
    trained = (t for t in (q, k, v, g, beta, initial_state) if t is not None)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in trained)
    o, state, *_ = _call(q, k, v, g, beta, initial_state, cu_seqlens, scale, l2norm, silu, save)
    return o.to(result), state
