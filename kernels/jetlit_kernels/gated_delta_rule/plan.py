"""Plan a call of the gated delta rule: its chunks, its kernels' configurations, and what its passes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from jetlit_kernels.chunks import Chunking
from jetlit_kernels.descriptors import described
from jetlit_kernels.gated_delta_rule.arguments import Arguments
from jetlit_kernels.gated_delta_rule.forward_kernels import GATE_ROWS
from jetlit_kernels.gated_delta_rule.segments import segments, slots
from jetlit_kernels.sizes import cdiv
from jetlit_kernels.tiles import CHUNK, PRECISION, Config, key_block

INTERVAL = 8  # chunks between two kept states
GROUP_TILES = 2048  # chunks times heads in a group of the backward pass: fills a GPU, bounds the scratch memory
SETS = 2  # of scratch memory at most: scans fill one while gradients are computed from the other


# One fixed configuration per kernel and width of K (bfloat16, then float32): nothing is tuned at run time.
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


@dataclass(frozen=True)
class Problem:
    """The shapes of one call, and the arguments that every kernel takes."""

    q: torch.Tensor
    v: torch.Tensor
    delta: bool
    chunking: Chunking
    descriptions: dict[tuple[int, ...], TensorDescriptor] = field(default_factory=dict)

    @classmethod
    def of(cls, a: Arguments) -> Problem:
        """Return the problem of a call."""
        bounds = None if a.cu_seqlens is None else a.cu_seqlens.int().contiguous()
        chunking = Chunking(CHUNK[a.q.dtype], a.q.shape[0], a.q.shape[1], bounds)
        chunking.check_heads(a.q.shape[2])
        return cls(a.q, a.v, a.beta is not None, chunking)

    @property
    def heads(self) -> int:
        """H."""
        return self.q.shape[2]

    @cached_property
    def interval(self) -> int:
        """Chunks between two kept states."""
        return min(INTERVAL, self.chunking.per_row)

    def starts(self, chunks: int) -> int:
        """Return how many pieces of `chunks` chunks begin inside a row, not counting its start."""
        return cdiv(self.chunking.per_row, chunks) - 1

    @cached_property
    def window(self) -> int:
        """Chunks of a segment of a row: whole intervals, or the row if the forward pass scans it in one."""
        cut = self.chunking
        count = 1 if cut.bounds is not None else segments(*self._room("scan"), cut.per_row)
        return cut.per_row if count == 1 else cdiv(cut.per_row, count * INTERVAL) * INTERVAL

    @cached_property
    def group(self) -> int:
        """Chunks of every row in a group of the backward pass: whole intervals, about as many in each group."""
        largest = max(1, GROUP_TILES // (self.chunking.rows * self.heads * self.interval))
        intervals = cdiv(self.chunking.per_row, self.interval)
        return min(cdiv(intervals, cdiv(intervals, largest)) * self.interval, self.chunking.per_row)

    @property
    def groups(self) -> int:
        """Groups of the backward pass."""
        return cdiv(self.chunking.per_row, self.group)

    @property
    def sets(self) -> int:
        """Sets of scratch memory: two if a scan fills at most half of a GPU and there are several groups, else one."""
        programs, room = self._room("reverse")
        return min(SETS, self.groups) if 2 * programs <= room else 1

    def _room(self, kernel: str) -> tuple[int, int]:
        """Return how many programs a scan of whole rows has, and how many of them run at once."""
        config = CONFIGS[kernel, self.q.dtype][key_block(self.q.shape[3])]
        programs = cdiv(self.v.shape[3], config.columns) * self.chunking.sequences * self.heads
        return programs, slots(self.q.device, config.warps)

    def tiles(self, group: int, *shape: int) -> torch.Tensor:
        """Scratch memory [slots, H, ...] for a group of chunks."""
        return torch.empty(self.chunking.rows * group, self.heads, *shape, dtype=self.q.dtype, device=self.q.device)

    def tokens(self, x: torch.Tensor, block: int) -> TensorDescriptor:
        """Describe x [B, T, H, WIDTH] for loads of a chunk's tokens of one head, `block` columns at a time."""
        return self._described(x.view(-1, *x.shape[2:]), [self.chunking.size, 1, block])

    def operands(self, x: torch.Tensor, block: int) -> TensorDescriptor:
        """Describe the same for `load_operand`, head by head."""
        return self._described(x.view(-1, *x.shape[2:]).transpose(0, 1), [1, self.chunking.size, block])

    def blocks(self, x: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
        """Describe scratch memory x [slots, H, .., ..] for loads of blocks of a chunk and head."""
        return self._described(x.flatten(0, 1), [1, rows, columns])

    def squares(self, x: torch.Tensor) -> TensorDescriptor | None:
        """Describe x [chunks, H, C, C] for loads of the tile of a chunk and head; None if it has none."""
        return self._described(x.view(-1, x.shape[3]), [self.chunking.size] * 2) if x.numel() else None

    def _described(self, x: torch.Tensor, block: list[int]) -> TensorDescriptor:
        """Describe each tensor once per call, since that costs the host as much as a launch.

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
    """What the forward pass makes for the scans and keeps for the backward pass.

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
    def empty(cls, problem: Problem, checkpoints: int) -> Kept:
        """Allocate them, with so many states of every row."""
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
        """Return them in the order of the attributes."""
        return self.checkpoints, self.inverses, self.attentions, self.gates
