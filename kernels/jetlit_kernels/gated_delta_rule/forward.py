"""Launch the gated delta rule's forward Triton kernels.

Without β they compute linear attention with a scalar decay, which is the same recurrence without the delta term.

Where a backward pass may follow, the forward pass keeps the inside of the chunks and the state at every eighth one.
"""

from __future__ import annotations

import torch

from jetlit_kernels.gated_delta_rule.arguments import Arguments
from jetlit_kernels.gated_delta_rule.forward_kernels import prepare_kernel, scan_kernel
from jetlit_kernels.gated_delta_rule.plan import CONFIGS, PRECISION, Kept, Problem, key_block
from jetlit_kernels.gated_delta_rule.segments import join
from jetlit_kernels.sizes import cdiv

PAIR_KEYS = 64  # columns of K per step of the products between tokens


def _prepare(
    problem: Problem, a: Arguments, active: tuple[torch.Tensor | None, torch.Tensor | None], kept: Kept
) -> None:
    block, cut = key_block(a.q.shape[3]), problem.chunking
    prepare_kernel[(cut.rows * cut.per_row, problem.heads)](
        problem.tokens(a.q, PAIR_KEYS),
        problem.tokens(a.k, PAIR_KEYS),
        a.g,
        a.beta,
        *active,
        kept.inverses,
        kept.attentions,
        kept.gates,
        sequences=cut.sequences,
        owners=cut.owners(cut.per_row),
        scale=a.scale,
        BK=PAIR_KEYS,
        L2NORM=a.l2norm,
        SILU=a.silu,
        SOLVE_PRECISION=PRECISION[a.q.dtype],
        **problem.common,
        **CONFIGS["prepare", a.q.dtype][block].options(),
    )


def scan(
    kernel: str,
    problem: Problem,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    kept: Kept,
    tensors: tuple[torch.Tensor | None, ...],
    *,
    first: int,
    group: int,
    window: int,
    interval: int,
    has_initial: bool,
    save: bool = False,
) -> None:
    """Launch `scan_kernel` over a group of chunks of every row.

    Args:
        kernel: "scan" for the outputs, "states" for those of the backward pass, "maps" for a segment's M and B.
        problem: the call.
        inputs: q, k [B, T, H, K] and v [B, T, H, V], after their activation.
        kept: what `prepare_kernel` made, and the states to start from or to write.
        tensors: `scan_kernel`'s from `initial` to `updates`.
        first: chunk of a row that the group begins with.
        group: chunks of it.
        window: chunks that one program scans.
        interval: chunks between two checkpoints.
        has_initial: whether there is an initial state.
        save: whether to write the checkpoints.
    """
    q, k, v = inputs
    block = key_block(q.shape[3])
    reads, maps = kernel == "scan", kernel == "maps"
    config = CONFIGS["scan" if reads else "states", q.dtype][block]  # the others need neither q nor P
    grid = (
        cdiv(v.shape[3] + (q.shape[3] if maps else 0), config.columns),
        problem.chunking.sequences * problem.heads,
        cdiv(group, window),
    )
    scan_kernel[grid](
        problem.tokens(q, block) if reads else None,
        problem.operands(k, block),
        problem.operands(v, config.columns),
        problem.squares(kept.inverses),
        problem.squares(kept.attentions) if reads else None,
        kept.gates,
        *tensors,
        first=first,
        group=group,
        window=window,
        interval=interval,
        rows=problem.chunking.rows,
        BK=block,
        BV=config.columns,
        HAS_INITIAL=has_initial,
        STORE_OUTPUT=reads,
        STORE_CHECKPOINTS=save,
        STORE_STATES=kernel == "states",
        STORE_MAPS=maps,
        FROM_CHECKPOINTS=kernel == "states" or (reads and window < problem.chunking.per_row),
        **problem.common,
        **config.options(),
    )


def _start_segments(
    problem: Problem,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    kept: Kept,
    initial_state: torch.Tensor | None,
    interval: int,
) -> None:
    """Write the state at the start of every segment, except a row's first, into the checkpoints."""
    K, V, window = problem.q.shape[3], problem.v.shape[3], problem.window
    starts, states = problem.starts(window), problem.chunking.rows * problem.heads
    maps = torch.empty(starts, states, K, V + K, dtype=torch.float32, device=problem.q.device)
    scan(
        "maps",
        problem,
        inputs,
        kept,
        (initial_state, maps, None, None, None, None),
        first=0,
        group=starts * window,
        window=window,
        interval=interval,
        has_initial=initial_state is not None,
    )
    join(maps, kept.checkpoints.view(-1, states, K, V), window // interval)


def empty_kept(a: Arguments) -> tuple[torch.Tensor, ...]:
    """Return tensors like those that the forward pass keeps."""
    problem = Problem.of(a)
    kept = Kept.empty(problem, problem.starts(problem.interval)).tensors()
    return kept if a.save else tuple(t.new_empty(0) for t in kept)


def forward(a: Arguments) -> tuple[torch.Tensor, ...]:
    """Run the forward pass on contiguous tensors, q, k and v of one dtype (g, beta and the state may differ).

    Returns:
        o [B, T, H, V], the final states [N, H, K, V] in float32, and the tensors of `Kept` (empty unless `save`).
    """
    problem = Problem.of(a)
    K, V, H, cut = a.q.shape[3], a.v.shape[3], problem.heads, problem.chunking
    o = torch.empty_like(a.v)
    final = torch.empty(cut.sequences, H, K, V, dtype=torch.float32, device=a.q.device)
    # Without a backward pass only the segments' starts are kept: none if a row is one segment.
    interval = problem.interval if a.save else problem.window
    kept = Kept.empty(problem, problem.starts(interval))
    active = (torch.empty_like(a.q), torch.empty_like(a.k)) if a.silu else (None, None)
    _prepare(problem, a, active, kept)
    inputs = (*active, a.v) if a.silu else (a.q, a.k, a.v)
    if problem.window < cut.per_row:
        _start_segments(problem, inputs, kept, a.initial_state, interval)
    scan(
        "scan",
        problem,
        inputs,
        kept,
        (a.initial_state, final, kept.checkpoints, o, None, None),
        first=0,
        group=cut.per_row,
        window=problem.window,
        interval=interval,
        has_initial=a.initial_state is not None,
        save=a.save,
    )
    return o, final, *(kept.tensors() if a.save else (o.new_empty(0) for _ in kept.tensors()))
