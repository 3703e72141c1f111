"""The gated delta rule's Triton kernels as PyTorch operators: autograd, torch.compile and export see one node each.

The launchers are imported where they are called: Triton is absent on some machines, where nothing calls them.
"""

from __future__ import annotations

import torch

from jetlit_kernels.dtypes import in_one_dtype
from jetlit_kernels.gated_delta_rule.arguments import Arguments
from jetlit_kernels.operators import contiguous, differentiable

Tensors = tuple[torch.Tensor, ...]
GRADIENTS = 6  # of the arguments from q to initial_state


def _contiguous(a: Arguments) -> Arguments:
    return Arguments._make((*contiguous(*a[:GRADIENTS]), *a[GRADIENTS:]))


def _forward(a: Arguments) -> Tensors:
    from jetlit_kernels.gated_delta_rule.forward import forward

    return forward(_contiguous(a))


def _fake(a: Arguments) -> Tensors:
    from jetlit_kernels.gated_delta_rule.forward import empty_kept

    o = torch.empty_like(a.v, memory_format=torch.contiguous_format)
    final = a.q.new_empty(a.sequences, *a.q.shape[2:], a.v.shape[3], dtype=torch.float32)
    return o, final, *empty_kept(a)


def _backward(a: Arguments, kept: Tensors, do: torch.Tensor | None, d_final: torch.Tensor | None) -> Tensors:
    from jetlit_kernels.gated_delta_rule.backward import backward
    from jetlit_kernels.gated_delta_rule.plan import Kept

    do = torch.zeros_like(a.v) if do is None else do
    d_final = None if d_final is None else d_final.contiguous()
    return backward(_contiguous(a), Kept(*kept), do.contiguous(), d_final)


def _fake_backward(a: Arguments) -> Tensors:
    like_inputs = (
        a.g.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format) for t in a[:5]
    )
    shape = (0,) if a.initial_state is None else a.initial_state.shape
    return *like_inputs, a.q.new_empty(shape, dtype=torch.float32)


gated_delta_rule_op, _call = differentiable(
    "jetlit_kernels::gated_delta_rule",
    Arguments,
    _forward,
    _fake,
    _backward,
    _fake_backward,
    results=6,
    kept=4,
    gradients=GRADIENTS,
)


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor | None,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    scale: float,
    *,
    l2norm: bool = False,
    silu: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the kernels on inputs of any dtype, with gradients; g None means no decay.

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
