"""Launches the gated delta rule's Triton kernels: forward, and backward with recomputation.

Without β they compute linear attention with a scalar decay, which is the same recurrence without the delta term.

Where a backward pass may follow, the forward pass keeps the inside of the chunks and the state at every eighth one. The
backward pass walks the sequences backwards in groups of chunks, recomputes a group's states into scratch memory, and
so needs little of it at any length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from jetlit_kernels.triton.chunks import Chunking, cdiv
from jetlit_kernels.triton.descriptors import described
from jetlit_kernels.triton.gated_delta_rule_backward_kernels import chunk_gradient_kernel, reverse_scan_kernel
from jetlit_kernels.triton.gated_delta_rule_kernels import GATE_ROWS, prepare_kernel, scan_kernel
from jetlit_kernels.triton.gated_delta_rule_segments import join, segments, slots
from jetlit_kernels.triton.sizes import power_of_two

INTERVAL = 8  # chunks between two kept states
GROUP_TILES = 2048  # chunks times heads in a group of the backward pass: fills a GPU, bounds the scratch memory


@dataclass(frozen=True)
class Config:
    """How a kernel is cut and compiled.

    Attributes:
        columns: columns of V a program or step.
        warps: warps a program.
        stages: stages of the loads' pipeline.
        registers: limit for a thread, so that more programs share a multiprocessor; None for no limit.
    """

    columns: int
    warps: int
    stages: int
    registers: int | None = None

    def options(self) -> dict[str, int | None]:
        """Returns the compiler's options."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


# One fixed configuration a kernel and width of K (bfloat16, then float32): nothing is tuned at run time.
CONFIGS = {
    ("prepare", torch.bfloat16): {width: Config(0, 4, 2, 168) for width in (64, 128, 256)},
    ("scan", torch.bfloat16): {64: Config(64, 4, 2), 128: Config(64, 4, 2), 256: Config(64, 8, 2)},
    ("states", torch.bfloat16): {64: Config(64, 4, 3), 128: Config(64, 4, 3), 256: Config(64, 8, 1)},
    ("reverse", torch.bfloat16): {64: Config(64, 4, 2), 128: Config(64, 4, 2), 256: Config(64, 8, 1)},
    ("gradient", torch.bfloat16): {64: Config(64, 8, 3), 128: Config(64, 8, 3), 256: Config(64, 8, 2)},
    ("prepare", torch.float32): {64: Config(0, 4, 1), 128: Config(0, 4, 1), 256: Config(0, 4, 1)},
    ("scan", torch.float32): {64: Config(32, 4, 1), 128: Config(32, 4, 1), 256: Config(16, 4, 1)},
    ("states", torch.float32): {64: Config(32, 4, 1), 128: Config(32, 4, 1), 256: Config(16, 4, 1)},
    ("reverse", torch.float32): {64: Config(32, 4, 1), 128: Config(32, 4, 1), 256: Config(16, 4, 1)},
    ("gradient", torch.float32): {64: Config(32, 4, 1), 128: Config(32, 8, 1), 256: Config(32, 8, 1)},
}
CHUNK = {torch.bfloat16: 64, torch.float32: 32}
PRECISION = {torch.bfloat16: "tf32", torch.float32: "tf32x3"}  # three tf32 products: as good as float32
PAIR_KEYS = 64  # columns of K a step of the products between tokens
STATE_KEYS = 128  # columns of K a step of the products with states, in the last backward kernel


def key_block(K: int) -> int:
    """Returns the width of the tiles that hold K columns.

    Never 32: on Hopper, Triton 3.6 gave wrong results for 16-bit tiles of that width (docs/kernels.md).
    """
    return max(64, power_of_two(K))


@dataclass(frozen=True)
class _Problem:
    """The shapes of one call, and the arguments that every kernel takes."""

    q: torch.Tensor
    v: torch.Tensor
    delta: bool
    chunking: Chunking
    descriptions: dict[tuple[int, ...], TensorDescriptor] = field(default_factory=dict)

    @classmethod
    def of(cls, q: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None, delta: bool) -> _Problem:
        bounds = None if cu_seqlens is None else cu_seqlens.int().contiguous()
        return cls(q, v, delta, Chunking(CHUNK[q.dtype], q.shape[0], q.shape[1], bounds))

    @property
    def heads(self) -> int:
        return self.q.shape[2]

    @cached_property
    def interval(self) -> int:
        return min(INTERVAL, self.chunking.per_row)

    def starts(self, chunks: int) -> int:
        """Returns how many stretches of so many chunks begin in a row, but at its start."""
        return cdiv(self.chunking.per_row, chunks) - 1

    @cached_property
    def window(self) -> int:
        """Chunks of a segment of a row: whole intervals, or the row if the forward pass scans it in one."""
        cut = self.chunking
        config = CONFIGS["scan", self.q.dtype][key_block(self.q.shape[3])]
        programs = cdiv(self.v.shape[3], config.columns) * cut.sequences * self.heads
        count = 1 if cut.bounds is not None else segments(programs, cut.per_row, slots(self.q.device, config.warps))
        return cut.per_row if count == 1 else cdiv(cut.per_row, count * INTERVAL) * INTERVAL

    @cached_property
    def group(self) -> int:
        """Chunks of every row in a group of the backward pass: whole intervals, about as many in each group."""
        largest = max(1, GROUP_TILES // (self.chunking.rows * self.heads * self.interval))
        intervals = cdiv(self.chunking.per_row, self.interval)
        return min(cdiv(intervals, cdiv(intervals, largest)) * self.interval, self.chunking.per_row)

    def tiles(self, group: int, *shape: int) -> torch.Tensor:
        """Scratch memory [slots, H, ...] for a group of chunks."""
        return torch.empty(self.chunking.rows * group, self.heads, *shape, dtype=self.q.dtype, device=self.q.device)

    def tokens(self, x: torch.Tensor, block: int) -> TensorDescriptor:
        """Describes x [B, T, H, WIDTH] for loads of a chunk's tokens of one head, `block` columns at a time."""
        return self._described(x.view(-1, *x.shape[2:]), [self.chunking.size, 1, block])

    def operands(self, x: torch.Tensor, block: int) -> TensorDescriptor:
        """Describes the same for `load_operand`, head by head."""
        return self._described(x.view(-1, *x.shape[2:]).transpose(0, 1), [1, self.chunking.size, block])

    def blocks(self, x: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
        """Describes scratch memory x [slots, H, .., ..] for loads of blocks of a chunk and head."""
        return self._described(x.flatten(0, 1), [1, rows, columns])

    def squares(self, x: torch.Tensor) -> TensorDescriptor | None:
        """Describes x [chunks, H, C, C] for loads of the tile of a chunk and head; None if it has none."""
        return self._described(x.view(-1, x.shape[3]), [self.chunking.size] * 2) if x.numel() else None

    def _described(self, x: torch.Tensor, block: list[int]) -> TensorDescriptor:
        """Describes each tensor once a call, since that costs the host as much as a launch.

        One that had to be copied is described anew, as it may have been written since.
        """
        key = (x.data_ptr(), *block)
        if key not in self.descriptions:
            description = described(x, block)
            if description.base.data_ptr() != x.data_ptr():
                return description
            self.descriptions[key] = description
        return self.descriptions[key]

    @cached_property
    def common(self) -> dict[str, object]:
        """The arguments that every kernel takes."""
        cut = self.chunking
        return {
            "length": cut.length,
            "chunks": cut.per_row,
            "bounds": cut.bounds,
            "base": cut.base,
            "H": self.heads,
            "K": self.q.shape[3],
            "V": self.v.shape[3],
            "C": cut.size,
            "DELTA": self.delta,
            "PACKED": cut.bounds is not None,
            "PRECISION": PRECISION[self.q.dtype],
        }


@dataclass(frozen=True)
class Kept:
    """What the forward pass makes for the scans, and keeps for the backward pass.

    Attributes:
        checkpoints: [T / (8 · C) - 1, rows, H, K, V] float32: the state at every eighth chunk of a row but its first;
            if no backward pass follows, at every segment of a row but its first.
        inverses: [chunks, H, C, C]: A - I; empty for linear attention.
        attentions: [chunks, H, C, C]: P.
        gates: [chunks, H, GATE_ROWS, C] float32.
    """

    checkpoints: torch.Tensor
    inverses: torch.Tensor
    attentions: torch.Tensor
    gates: torch.Tensor

    @classmethod
    def empty(cls, problem: _Problem, checkpoints: int) -> Kept:
        """Allocates them, with so many states of every row."""
        cut, H, C = problem.chunking, problem.heads, problem.chunking.size
        # Packed sequences leave chunks unwritten, and states where one starts with an interval; nothing reads them.
        allocate = torch.empty if cut.bounds is None else torch.zeros
        device, chunks = problem.q.device, cut.rows * cut.per_row
        states = (checkpoints, cut.rows, H, problem.q.shape[3], problem.v.shape[3])
        return cls(
            allocate(states, dtype=torch.float32, device=device),
            allocate(chunks if problem.delta else 0, H, C, C, dtype=problem.q.dtype, device=device),
            allocate(chunks, H, C, C, dtype=problem.q.dtype, device=device),
            allocate(chunks, H, GATE_ROWS.value, C, dtype=torch.float32, device=device),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Returns them in the order of the attributes."""
        return self.checkpoints, self.inverses, self.attentions, self.gates


def _prepare(
    problem: _Problem,
    inputs: tuple[torch.Tensor, torch.Tensor],
    gates: tuple[torch.Tensor, torch.Tensor | None],
    active: tuple[torch.Tensor | None, torch.Tensor | None],
    kept: Kept,
    scale: float,
    l2norm: bool,
) -> None:
    block, cut = key_block(problem.q.shape[3]), problem.chunking
    prepare_kernel[(cut.rows * cut.per_row, problem.heads)](
        *(problem.tokens(x, PAIR_KEYS) for x in inputs),
        *gates,
        *active,
        kept.inverses,
        kept.attentions,
        kept.gates,
        sequences=cut.sequences,
        owners=cut.owners(cut.per_row),
        scale=scale,
        BK=PAIR_KEYS,
        L2NORM=l2norm,
        SILU=active[0] is not None,
        SOLVE_PRECISION=PRECISION[problem.q.dtype],
        **problem.common,
        **CONFIGS["prepare", problem.q.dtype][block].options(),
    )


def _scan(
    kernel: str,
    problem: _Problem,
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
    problem: _Problem,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    kept: Kept,
    initial_state: torch.Tensor | None,
    interval: int,
) -> None:
    """Writes the state at every segment's start but the rows' own into the checkpoints."""
    K, V, window = problem.q.shape[3], problem.v.shape[3], problem.window
    starts, states = problem.starts(window), problem.chunking.rows * problem.heads
    maps = torch.empty(starts, states, K, V + K, dtype=torch.float32, device=problem.q.device)
    _scan(
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


def empty_kept(
    q: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None, delta: bool, save: bool
) -> tuple[torch.Tensor, ...]:
    """Returns tensors like those that the forward pass keeps."""
    problem = _Problem.of(q, v, cu_seqlens, delta)
    kept = Kept.empty(problem, problem.starts(problem.interval) if save else 0).tensors()
    return kept if save else tuple(t.new_empty(0) for t in kept)


def forward(
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
    """Runs the forward pass on contiguous tensors of one dtype (g, beta and the state may differ).

    Returns:
        o [B, T, H, V], the final states [N, H, K, V] in float32, and the tensors of `Kept` (empty unless `save`).
    """
    problem = _Problem.of(q, v, cu_seqlens, beta is not None)
    K, V, H, cut = q.shape[3], v.shape[3], problem.heads, problem.chunking
    o = torch.empty_like(v)
    final = torch.empty(cut.sequences, H, K, V, dtype=torch.float32, device=q.device)
    segmented = problem.window < cut.per_row
    interval = problem.window if segmented and not save else problem.interval
    kept = Kept.empty(problem, problem.starts(interval) if segmented or save else 0)
    active = (torch.empty_like(q), torch.empty_like(k)) if silu else (None, None)
    _prepare(problem, (q, k), (g, beta), active, kept, scale, l2norm)
    inputs = (*active, v) if silu else (q, k, v)
    if segmented:
        _start_segments(problem, inputs, kept, initial_state, interval)
    _scan(
        "scan",
        problem,
        inputs,
        kept,
        (initial_state, final, kept.checkpoints, o, None, None),
        first=0,
        group=cut.per_row,
        window=problem.window,
        interval=interval,
        has_initial=initial_state is not None,
        save=save,
    )
    return o, final, *(kept.tensors() if save else (o.new_empty(0) for _ in kept.tensors()))


class _Scratch:
    """What the backward pass recomputes for a group of chunks, allocated once and used group after group."""

    def __init__(self, problem: _Problem, group: int) -> None:
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
    problem = _Problem.of(q, v, cu_seqlens, beta is not None)
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
        _scan(
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
    problem: _Problem,
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
    problem: _Problem,
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
