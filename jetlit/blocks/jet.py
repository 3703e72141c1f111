"""JetBlock (Gu et al., "Jet-Nemotron", arXiv:2508.15884, section 2.4), with the released parameters and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jetlit_kernels import dynamic_conv, gated_delta_rule, jet_decode_step, log_decay_and_beta, narrow_linear, silu
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import BlockPart, CarriedState, LinearMixer, LinearSettings, StateSpec, register_block
from jetlit.blocks.gates import at_least_float32, init_decay, no_weight_decay, spread_decay
from jetlit.blocks.packing import SequencesWithHistory
from jetlit.blocks.projections import is_plain, project
from jetlit.blocks.rms_norm import HeadRMSNorm
from jetlit.errors import UserError


class _KernelGenerator(nn.Module):
    """Makes a convolution's kernels from each token: w2(SiLU(w1 x)), of channels times taps outputs."""

    def __init__(self, hidden_size: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden_size, rank, bias=False)
        self.w2 = nn.Linear(rank, outputs, bias=True)


class DynamicConvolution(BlockPart):
    """A causal convolution of D channels of values, then SiLU; a generator makes its kernels from the block's input.

    The generator's rank is D // reduction, the standard deviation of the kernels at the start `initializer_range`.
    """

    def __init__(self, hidden_size: int, channels: int, taps: int, reduction: int, initializer_range: float) -> None:
        super().__init__()
        self.channels, self.taps, self.initializer_range = channels, taps, initializer_range
        self.kernel_generator = _KernelGenerator(hidden_size, channels // reduction, channels * taps)

    def init_weights(self) -> None:
        """Set the generator's weights to zero and draw its bias: a static convolution at first."""
        init.zeros_(self.kernel_generator.w1.weight)
        init.zeros_(self.kernel_generator.w2.weight)
        init.normal_(self.kernel_generator.w2.bias, std=self.initializer_range)

    def pass_through(self) -> None:
        """Open the current token's tap of freshly initialized kernels.

        The generator's first layer becomes random: while both its weights are zero neither has a gradient, and the
        convolution would stay static forever. The second layer stays zero, so that it is static at first.
        """
        self.kernel_generator.w2.bias.view(-1, self.taps)[:, -1] += 1
        self.kernel_generator.w1.weight.normal_(std=self.initializer_range)

    def state_specs(self) -> dict[str, StateSpec]:
        """Return the spec of the last inputs."""
        return {"conv": StateSpec((self.channels, self.taps), None)}

    def forward(
        self, v: torch.Tensor, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None
    ) -> torch.Tensor:
        """Convolve v [B, T, D] with kernels from the generator's hidden layer [B, T, rank], then apply SiLU."""
        w2 = self.kernel_generator.w2
        if not is_plain(w2):
            return self._convolve(v, w2(hidden), state, cu_seqlens)
        past = state.read("conv")
        v, final = dynamic_conv(
            v, hidden, w2.weight, w2.bias, state=past, output_final_state=state.kept, cu_seqlens=cu_seqlens
        )
        state.write("conv", final)
        return v

    def kernels_of(self, rank: torch.Tensor) -> torch.Tensor:
        """Return the kernels of tokens [B, D, W] from the generator's first layer [B, rank]."""
        w2 = self.kernel_generator.w2
        kernels = narrow_linear(rank, w2.weight, w2.bias, silu_input=True) if is_plain(w2) else w2(F.silu(rank))
        return kernels.unflatten(-1, (self.channels, self.taps))

    def _convolve(
        self, v: torch.Tensor, kernels: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the same from kernels in memory, [B, T, D · W]."""
        sequences = SequencesWithHistory(v, state, "conv", self.taps, cu_seqlens)
        taps = at_least_float32(kernels).unflatten(-1, (self.channels, self.taps)).unbind(-1)
        inputs = (sequences.at_tokens(sequences.rows, lag) for lag in reversed(range(self.taps)))
        return F.silu(sum(x * tap for x, tap in zip(inputs, taps, strict=True))).to(v.dtype)


@register_block("jet")
class JetBlock(LinearMixer):
    """Gated DeltaNet's time mixing with a dynamic convolution on values and none on queries and keys."""

    @dataclass(frozen=True)
    class Settings(LinearSettings):
        """Settings beside those of every linear block; the released models have no qkv_bias."""

        expand_v: float = 2.0
        conv_size: int = 4  # W, taps of the dynamic convolution, 2 to 8
        dconv_generator_reduction: int = 8  # the kernel generator's rank is h · V // this
        initializer_range: float = 0.02  # standard deviation of the kernels at the start
        mode: str = "chunk"  # how the released code computes; no effect here, where the operators choose by length
        dconv_implementation: str = "triton"  # the same for its convolution; here the device decides

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 2 <= self.conv_size <= 8:
                raise UserError(f"JetBlock needs conv_size from 2 to 8, not {self.conv_size}: correct the config.")
            values = self.num_heads * self.value_head_dim
            if not 1 <= self.dconv_generator_reduction <= values:
                raise UserError(
                    f"JetBlock needs dconv_generator_reduction from 1 to {values} (heads times value size), not "
                    f"{self.dconv_generator_reduction}: correct the config."
                )

    settings: Settings
    inherits_bias: ClassVar[bool] = False  # the released format has no place for them

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own, hidden = self.settings, self.hidden_size
        self.a_proj = nn.Linear(hidden, self.num_heads, bias=False)
        self.b_proj = nn.Linear(hidden, self.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        no_weight_decay(self, "A_log", "dt_bias")
        self.dynamic_conv1d = DynamicConvolution(
            hidden, self.value_dim, own.conv_size, own.dconv_generator_reduction, own.initializer_range
        )
        self.g_proj = nn.Linear(hidden, self.value_dim, bias=False)
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize the kernel generator and the decays as the released code does."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias)

    def after_inheriting(self) -> None:
        """Let inherited values pass through the convolution and the heads remember."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        q, k, v, gate, b, a, rank = project(hidden, self.step_inputs())
        v = self.dynamic_conv1d(v, silu(rank), state, cu_seqlens)
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)
        g, beta = log_decay_and_beta(b, a, self.A_log, self.dt_bias)
        o = state.recur(gated_delta_rule, q, k, v, g, beta, cu_seqlens=cu_seqlens, qk_activation="silu")
        return self.o_proj(self.o_norm(o, gate))

    def step_inputs(self) -> list[nn.Linear]:
        """See `LinearMixer.step_inputs`."""
        w1 = self.dynamic_conv1d.kernel_generator.w1
        return [self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.b_proj, self.a_proj, w1]

    def step_reads(self) -> dict[str, type[nn.Module]]:
        """See `LinearMixer.step_reads`."""
        return {"o_norm": HeadRMSNorm, "dynamic_conv1d": DynamicConvolution}

    def step(
        self, projected: Sequence[torch.Tensor], states: Mapping[str, torch.Tensor], slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `LinearMixer.step`."""
        q, k, v, gate, b, a, rank = projected
        o = jet_decode_step(
            self.split_heads(q),
            self.split_heads(k),
            self.split_heads(v),
            self.split_heads(gate),
            b,
            a,
            self.dynamic_conv1d.kernels_of(rank),
            self.A_log,
            self.dt_bias,
            self.o_norm.weight,
            states["conv"],
            states["recurrent"],
            norm_eps=self.norm_eps,
            slots=slots,
        )
        return o.flatten(1)
