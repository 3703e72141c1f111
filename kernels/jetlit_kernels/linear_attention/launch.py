"""Launch the Triton kernels of linear attention with vector decays (GLA): forward, and backward with recomputation.

Only the inputs are kept for the backward pass. Both passes treat all chunks at once, except for the scan over the
states. Scratch memory takes a few tensors of the inputs' size and one state per chunk.
"""

from __future__ import annotations

from functools import cached_property

import torch

from jetlit_kernels.chunks import Chunking
from jetlit_kernels.linear_attention.arguments import Arguments
from jetlit_kernels.linear_attention.kernels import (
    attention_kernel,
    decay_kernel,
    gradient_kernel,
    read_kernel,
    scan_kernel,
)
from jetlit_kernels.sizes import cdiv
from jetlit_kernels.tiles import CHUNK, PRECISION, Config, key_block

# One fixed configuration per kernel: nothing is tuned at run time. `columns` are those of a program: of V in "scan" and
# "read", of K in the others ("attention" takes them step by step).
CONFIGS = {
    ("decay", torch.bfloat16): Config(64, 4, 1),
    ("attention", torch.bfloat16): Config(64, 4, 1),
    ("scan", torch.bfloat16): Config(64, 8, 2),
    ("read", torch.bfloat16): Config(64, 4, 2),
    ("gradient", torch.bfloat16): Config(64, 8, 2),
    ("decay", torch.float32): Config(32, 4, 1),
    ("attention", torch.float32): Config(32, 4, 1),
    ("scan", torch.float32): Config(32, 4, 1),
    ("read", torch.float32): Config(32, 4, 1),
    ("gradient", torch.float32): Config(32, 4, 1),
}
STEP = {torch.bfloat16: 64, torch.float32: 32}  # columns that a product with the states takes at a time
# The sums of log decays: float32 results need the difference of two sums exactly, even after strong decays.
SUMS = {torch.bfloat16: torch.float32, torch.float32: torch.float64}


class _Call:
    """The shapes of one call, and its kernels' launches. q, k and v are contiguous and of one dtype."""

    def __init__(self, a: Arguments) -> None:
        bounds = None if a.cu_seqlens is None else a.cu_seqlens.int().contiguous()
        self.dtype, self.device = a.q.dtype, a.q.device
        self.heads, self.K, self.V = a.q.shape[2], a.q.shape[3], a.v.shape[3]
        self.cut = Chunking(CHUNK[a.q.dtype], a.q.shape[0], a.q.shape[1], bounds)
        self.cut.check_heads(self.heads)
        self.slots = self.cut.rows * self.cut.per_row

    @cached_property
    def common(self) -> dict[str, object]:
        """The arguments that every kernel takes."""
        cut = self.cut
        return {
            "length": cut.length,
            "chunks": cut.per_row,
            "sequences": cut.sequences,
            "bounds": cut.bounds,
            "base": cut.base,
            "owners": cut.owners(cut.per_row),
            "H": self.heads,
            "K": self.K,
            "V": self.V,
            "C": cut.size,
            "PACKED": cut.bounds is not None,
            "PRECISION": PRECISION[self.dtype],
        }

    @property
    def levels(self) -> int:
        """How often a chunk is halved down to single tokens."""
        return self.cut.size.bit_length() - 1

    def config(self, kernel: str) -> Config:
        """Return the configuration of a kernel."""
        return CONFIGS[kernel, self.dtype]

    def keys(self, columns: int) -> int:
        """Return the width of blocks of K: `columns`, or less where K has less."""
        return min(key_block(self.K), columns)

    def tiles(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return scratch memory [slots, H, ...] for all chunks."""
        return torch.empty(self.slots, self.heads, *shape, dtype=dtype or self.dtype, device=self.device)

    def prepare(self, a: Arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return G, the readers and the writers, each [slots, H, C, K], and P [slots, H, C, C]."""
        C = self.cut.size
        sums = self.tiles(C, self.K, dtype=SUMS[self.dtype])
        readers, writers = self.tiles(C, self.K), self.tiles(C, self.K)
        config = self.config("decay")
        BK = self.keys(config.columns)
        decay_kernel[(self.slots, self.heads, cdiv(self.K, BK))](
            a.q, a.k, a.g, sums, readers, writers, a.scale, BK=BK, **self.common, **config.options()
        )
        attentions = self.tiles(C, C)
        config = self.config("attention")
        attention_kernel[(self.slots, self.heads)](
            a.q,
            a.k,
            sums,
            attentions,
            a.scale,
            LEVELS=self.levels,
            BK=self.keys(config.columns),
            **self.common,
            **config.options(),
        )
        return sums, readers, writers, attentions

    def scan(
        self,
        writers: torch.Tensor,
        values: torch.Tensor,
        sums: torch.Tensor,
        initial: torch.Tensor | None,
        reverse: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states that the chunks meet [slots, H, K, V] and, in float32, the last ones [N, H, K, V]."""
        states = self.tiles(self.K, self.V)
        shape = self.cut.sequences, self.heads, self.K, self.V
        final = torch.empty(shape, dtype=torch.float32, device=self.device)
        config = self.config("scan")
        scan_kernel[(cdiv(self.V, config.columns), self.cut.sequences * self.heads)](
            writers,
            values,
            sums,
            initial,
            final,
            states,
            BK=key_block(self.K),
            BV=config.columns,
            HAS_INITIAL=initial is not None,
            REVERSE=reverse,
            **self.common,
            **config.options(),
        )
        return states, final

    def read(
        self,
        readers: torch.Tensor,
        states: torch.Tensor,
        attentions: torch.Tensor,
        values: torch.Tensor,
        transposed: bool = False,
    ) -> torch.Tensor:
        """Return readers · S + P · values [B, T, H, V], or Pᵀ for P when transposed."""
        o = torch.empty_like(values)
        config = self.config("read")
        read_kernel[(self.slots, self.heads, cdiv(self.V, config.columns))](
            readers,
            states,
            attentions,
            values,
            o,
            BK=self.keys(STEP[self.dtype]),
            BV=config.columns,
            TRANSPOSED=transposed,
            **self.common,
            **config.options(),
        )
        return o

    def gradients(
        self, a: Arguments, sums: torch.Tensor, states: torch.Tensor, d_states: torch.Tensor, do: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return dq, dk and dg."""
        dq, dk, dg = (torch.empty_like(t) for t in (a.q, a.k, a.g))
        config = self.config("gradient")
        BK = self.keys(config.columns)
        gradient_kernel[(self.slots, self.heads, cdiv(self.K, BK))](
            a.q,
            a.k,
            a.v,
            sums,
            states,
            d_states,
            do,
            dq,
            dk,
            dg,
            a.scale,
            LEVELS=self.levels,
            BK=BK,
            BV=STEP[self.dtype],
            **self.common,
            **config.options(),
        )
        return dq, dk, dg


def forward(a: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the forward pass on contiguous tensors, q, k and v of one dtype (g and the state may differ).

    Returns:
        o [B, T, H, V], and the final states [N, H, K, V] in float32.
    """
    call = _Call(a)
    sums, readers, writers, attentions = call.prepare(a)
    states, final = call.scan(writers, a.v, sums, a.initial_state)
    return call.read(readers, states, attentions, a.v), final


def backward(a: Arguments, do: torch.Tensor, d_final: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Run the backward pass on contiguous tensors.

    Args:
        a: the arguments of the forward pass.
        do: [B, T, H, V], the output's gradient.
        d_final: [N, H, K, V], the final states' gradient, or None.

    Returns:
        The gradients of q, k, v, g, and of the initial states (given or zero) in float32.
    """
    call = _Call(a)
    sums, readers, writers, attentions = call.prepare(a)
    states, _ = call.scan(writers, a.v, sums, a.initial_state)
    d_states, d_initial = call.scan(readers, do, sums, d_final, reverse=True)
    dv = call.read(writers, d_states, attentions, do, transposed=True)
    dq, dk, dg = call.gradients(a, sums, states, d_states, do)
    return dq, dk, dv, dg, d_initial
