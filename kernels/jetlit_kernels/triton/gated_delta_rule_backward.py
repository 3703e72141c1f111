"""Launches the gated delta rule's Triton kernels backward.

The sequences are walked backwards in groups of chunks. A group's states are recomputed into scratch memory from those
that the forward pass kept, so that little of it is needed at any length.
"""

from __future__ import annotations

import torch

from jetlit_kernels.triton.chunks import cdiv
from jetlit_kernels.triton.gated_delta_rule import scan
from jetlit_kernels.triton.gated_delta_rule_backward_kernels import chunk_gradient_kernel, reverse_scan_kernel
from jetlit_kernels.triton.gated_delta_rule_plan import CONFIGS, Kept, Problem, key_block

STATE_KEYS = 128  # columns of K a step of the products with states, in the last backward kernel


class _Scratch:
    """What the backward pass recomputes for a group of chunks, allocated once and used group after group."""

    def __init__(self, problem: Problem, group: int) -> None:
        K, V, C = problem.q.shape[3], problem.v.shape[3], problem.chunking.size
        self.states, self.d_states = problem.tiles(group, K, V), problem.tiles(group, K, V)
        self.updates = problem.tiles(group, C, V)
        # The gradient of the state between two groups; written for the next group while the last one's is read.
        self.carries = torch.empty(
            2, problem.chunking.rows, problem.heads, K, V, dtype=torch.float32, device=problem.q.device
        )


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    kept: Kept,
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    scale: float,
    l2norm: bool,
    silu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs the backward pass on contiguous tensors.

    Returns:
        The gradients of q, k, v, g, beta, and of the initial state in float32; for what was None, an empty tensor.
    """
    problem = Problem.of(q, v, cu_seqlens, beta is not None)
    cut, group = problem.chunking, problem.group
    scratch = _Scratch(problem, group)
    owners = cut.owners(group)
    dq, dk, dg = (torch.empty_like(t) for t in (q, k, g))
    given: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    if silu:
        # Activated again, and where their gradients go: the last kernel to read a chunk of them writes these.
        given, q, k = (q, k), torch.ops.aten.silu.out(q, out=dq), torch.ops.aten.silu.out(k, out=dk)
    # Whole tiles are read of it: past the end of a sequence there must be numbers, which zero factors then keep out.
    dv = torch.zeros_like(v) if cut.ragged else torch.empty_like(v)
    dbeta = g.new_empty(0) if beta is None else torch.empty_like(beta)
    has_initial = initial_state is not None
    states = (cut.sequences, problem.heads, q.shape[3], v.shape[3]) if has_initial else (0,)
    d_initial = torch.empty(states, dtype=torch.float32, device=q.device)
    for number in reversed(range(cdiv(cut.per_row, group))):
        first = number * group
        scan(
            "states",
            problem,
            (q, k, v),
            kept,
            (initial_state, None, kept.checkpoints, None, scratch.states, scratch.updates),
            first=first,
            group=group,
            window=problem.interval,
            interval=problem.interval,
            has_initial=has_initial,
        )
        _reverse_scan(problem, (q, k), kept, scratch, do, d_final, dv, d_initial, number, group, has_initial)
        _chunk_gradients(
            problem, (q, k), given, kept, scratch, do, (dq, dk, dv, dg, dbeta), first, group, owners, scale, l2norm
        )
    return dq, dk, dv, dg, dbeta, d_initial


def _reverse_scan(
    problem: Problem,
    inputs: tuple[torch.Tensor, torch.Tensor],
    kept: Kept,
    scratch: _Scratch,
    do: torch.Tensor,
    d_final: torch.Tensor | None,
    dv: torch.Tensor,
    d_initial: torch.Tensor,
    number: int,
    group: int,
    has_initial: bool,
) -> None:
    block = key_block(problem.q.shape[3])
    config = CONFIGS["reverse", problem.q.dtype][block]
    q, k = inputs
    grid = (cdiv(problem.v.shape[3], config.columns), problem.chunking.sequences * problem.heads)
    reverse_scan_kernel[grid](
        problem.tokens(q, block),
        problem.operands(k, block),
        problem.squares(kept.inverses),
        problem.squares(kept.attentions),
        kept.gates,
        problem.operands(do, config.columns),
        d_final,
        scratch.carries[(number + 1) % 2],
        dv,
        scratch.d_states,
        scratch.carries[number % 2],
        d_initial,
        first=number * group,
        group=group,
        BK=block,
        BV=config.columns,
        HAS_D_FINAL=d_final is not None,
        STORE_D_INITIAL=has_initial,
        **problem.common,
        **config.options(),
    )


def _chunk_gradients(
    problem: Problem,
    inputs: tuple[torch.Tensor, torch.Tensor],
    given: tuple[torch.Tensor | None, torch.Tensor | None],
    kept: Kept,
    scratch: _Scratch,
    do: torch.Tensor,
    gradients: tuple[torch.Tensor, ...],
    first: int,
    group: int,
    owners: torch.Tensor | None,
    scale: float,
    l2norm: bool,
) -> None:
    q, k = inputs
    dq, dk, dv, dg, dbeta = gradients
    s, block = scratch, min(key_block(q.shape[3]), STATE_KEYS)
    config = CONFIGS["gradient", q.dtype][key_block(q.shape[3])]
    columns = config.columns
    chunk_gradient_kernel[(problem.chunking.rows * group, problem.heads)](
        problem.operands(q, block),
        problem.operands(k, block),
        *given,
        kept.gates,
        problem.operands(do, columns),
        problem.operands(dv, columns),
        problem.blocks(s.updates, problem.chunking.size, columns),
        problem.blocks(s.states, block, columns),
        problem.blocks(s.d_states, block, columns),
        dq,
        dk,
        dg,
        dbeta,
        first=first,
        group=group,
        sequences=problem.chunking.sequences,
        owners=owners,
        scale=scale,
        BK=block,
        BV=columns,
        L2NORM=l2norm,
        SILU=given[0] is not None,
        **problem.common,
        **config.options(),
    )
