"""Launch the gated delta rule's Triton kernels backward.

The sequences are walked backwards in groups of chunks. A group's states are recomputed into scratch memory from those
that the forward pass kept, so that little of it is needed at any length.

A group's scans are chains of dependent chunks, its gradients many independent programs. Scans need
no gradients of chunks: where they have few programs, as for long rows of few heads, the next group's scans run beside
the last group's gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jetlit_kernels.gated_delta_rule.arguments import Arguments
from jetlit_kernels.gated_delta_rule.backward_kernels import chunk_gradient_kernel, reverse_scan_kernel
from jetlit_kernels.gated_delta_rule.forward import scan
from jetlit_kernels.gated_delta_rule.plan import CONFIGS, Kept, Problem, key_block
from jetlit_kernels.sizes import cdiv
from jetlit_kernels.streams import in_turns

STATE_KEYS = 128  # columns of K per step of the products with states, in the last backward kernel


class _Scratch:
    """What the backward pass recomputes for a group of chunks. It is allocated once and reused for every group."""

    def __init__(self, problem: Problem) -> None:
        K, V, C, group = problem.q.shape[3], problem.v.shape[3], problem.chunking.size, problem.group
        self.states, self.d_states = problem.tiles(group, K, V), problem.tiles(group, K, V)
        self.updates = problem.tiles(group, C, V)


@dataclass(frozen=True)
class _Pass:
    """A backward pass: what it reads and writes, and its launches for the group of chunks of each turn.

    Attributes:
        problem: the call.
        arguments: its arguments.
        inputs: q, k [B, T, H, K] and v [B, T, H, V], after their activation.
        given: q and k before it; None without one.
        kept: what the forward pass kept.
        do: [B, T, H, V], the output's gradient.
        d_final: [N, H, K, V], the final states' gradient, or None.
        gradients: of q, k, v, g and beta.
        d_initial: [N, H, K, V] float32, the initial states' gradient; empty without them.
        scratch: the sets of scratch memory.
        carries: [2, rows, H, K, V] float32: the gradient of the state between two groups, in turn.
        owners: the packed sequence of every chunk, or None.
    """

    problem: Problem
    arguments: Arguments
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    given: tuple[torch.Tensor | None, torch.Tensor | None]
    kept: Kept
    do: torch.Tensor
    d_final: torch.Tensor | None
    gradients: tuple[torch.Tensor, ...]
    d_initial: torch.Tensor
    scratch: list[_Scratch]
    carries: torch.Tensor
    owners: torch.Tensor | None

    def scans(self, turn: int) -> None:
        """Recompute U and the states of a group, and scan the state's gradient."""
        scratch = self._scratch(turn)
        scan(
            "states",
            self.problem,
            self.inputs,
            self.kept,
            (self.arguments.initial_state, None, self.kept.checkpoints, None, scratch.states, scratch.updates),
            first=self._first(turn),
            group=self.problem.group,
            window=self.problem.interval,
            interval=self.problem.interval,
            has_initial=self.arguments.initial_state is not None,
        )
        self._reverse_scan(turn)

    def chunk_gradients(self, turn: int) -> None:
        """Compute the gradients of a group's chunks but those of v, which the scan wrote."""
        problem, scratch = self.problem, self._scratch(turn)
        (q, k, _), (dq, dk, dv, dg, dbeta) = self.inputs, self.gradients
        block = min(key_block(q.shape[3]), STATE_KEYS)
        config = CONFIGS["gradient", q.dtype][key_block(q.shape[3])]
        columns = config.columns
        chunk_gradient_kernel[(problem.chunking.rows * problem.group, problem.heads)](
            problem.operands(q, block),
            problem.operands(k, block),
            *self.given,
            self.kept.gates,
            problem.operands(self.do, columns),
            problem.operands(dv, columns),
            problem.blocks(scratch.updates, problem.chunking.size, columns),
            problem.blocks(scratch.states, block, columns),
            problem.blocks(scratch.d_states, block, columns),
            dq,
            dk,
            dg,
            dbeta,
            first=self._first(turn),
            group=problem.group,
            sequences=problem.chunking.sequences,
            owners=self.owners,
            scale=self.arguments.scale,
            BK=block,
            BV=columns,
            L2NORM=self.arguments.l2norm,
            SILU=self.given[0] is not None,
            **problem.common,
            **config.options(),
        )

    def _reverse_scan(self, turn: int) -> None:
        problem, (q, k, v) = self.problem, self.inputs
        block = key_block(q.shape[3])
        config = CONFIGS["reverse", q.dtype][block]
        grid = (cdiv(v.shape[3], config.columns), problem.chunking.sequences * problem.heads)
        reverse_scan_kernel[grid](
            problem.tokens(q, block),
            problem.operands(k, block),
            problem.squares(self.kept.inverses),
            problem.squares(self.kept.attentions),
            self.kept.gates,
            problem.operands(self.do, config.columns),
            self.d_final,
            self.carries[(turn + 1) % 2],
            self.gradients[2],
            self._scratch(turn).d_states,
            self.carries[turn % 2],
            self.d_initial,
            first=self._first(turn),
            group=problem.group,
            BK=block,
            BV=config.columns,
            HAS_D_FINAL=self.d_final is not None,
            STORE_D_INITIAL=self.arguments.initial_state is not None,
            **problem.common,
            **config.options(),
        )

    def _first(self, turn: int) -> int:
        """Return the first chunk of a row in the group of a turn: they are walked backwards."""
        return (self.problem.groups - 1 - turn) * self.problem.group

    def _scratch(self, turn: int) -> _Scratch:
        return self.scratch[turn % len(self.scratch)]


def backward(a: Arguments, kept: Kept, do: torch.Tensor, d_final: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Run the backward pass on contiguous tensors.

    Args:
        a: the arguments of the forward pass.
        kept: what it kept.
        do: [B, T, H, V], the output's gradient.
        d_final: [N, H, K, V], the final states' gradient, or None.

    Returns:
        The gradients of q, k, v, g, beta, and of the initial state in float32; for what was None, an empty tensor.
    """
    problem = Problem.of(a)
    q, k = a.q, a.k
    cut, state = problem.chunking, (problem.heads, q.shape[3], a.v.shape[3])
    dq, dk, dg = (torch.empty_like(t) for t in (q, k, a.g))
    given: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    if a.silu:
        # Activate again, into the gradients' memory: the last kernel that reads a chunk writes its gradients there.
        given, q, k = (q, k), torch.ops.aten.silu.out(q, out=dq), torch.ops.aten.silu.out(k, out=dk)
    # Kernels read whole tiles of dv. Past a sequence's end they must find numbers, which zero factors then cancel.
    dv = torch.zeros_like(a.v) if cut.ragged else torch.empty_like(a.v)
    dbeta = a.g.new_empty(0) if a.beta is None else torch.empty_like(a.beta)
    initial = (0,) if a.initial_state is None else (cut.sequences, *state)
    d_initial = torch.empty(initial, dtype=torch.float32, device=q.device)
    this = _Pass(
        problem=problem,
        arguments=a,
        inputs=(q, k, a.v),
        given=given,
        kept=kept,
        do=do,
        d_final=d_final,
        gradients=(dq, dk, dv, dg, dbeta),
        d_initial=d_initial,
        scratch=[_Scratch(problem) for _ in range(problem.sets)],
        carries=torch.empty(2, cut.rows, *state, dtype=torch.float32, device=q.device),
        owners=cut.owners(problem.group),
    )
    _ = problem.common  # both streams use the memory it allocates, so it is made before they split
    in_turns(this.scans, this.chunk_gradients, problem.groups, problem.sets, q.device)
    return dq, dk, dv, dg, dbeta, d_initial
