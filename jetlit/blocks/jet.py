"""JetBlock (Gu et al., "Jet-Nemotron", arXiv:2508.15884, section 2.4), with the released parameters and names."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jetlit_kernels import dynamic_conv, jet_decode_step, silu
from torch import nn
from transformers import initialization as init

from jetlit.blocks.base import CarriedState, StateSpec
from jetlit.blocks.gated_delta import GatedDeltaMixer
from jetlit.blocks.projections import project
from jetlit.errors import UserError


class KernelGenerator(nn.Module):
    """Makes a convolution's kernels from each token: w2(SiLU(w1 x)).

    Args:
        hidden_size: of the model.
        rank: outputs of w1.
        channels: D.
        taps: W.
        initializer_range: standard deviation of w2's bias.
    """

    def __init__(self, hidden_size: int, rank: int, channels: int, taps: int, initializer_range: float) -> None:
        super().__init__()
        self.initializer_range = initializer_range
        self.w1 = nn.Linear(hidden_size, rank, bias=False)
        self.w2 = nn.Linear(rank, channels * taps, bias=True)

    def init_weights(self) -> None:
        """Weights zero and a random bias: a static convolution at first."""
        init.zeros_(self.w1.weight)
        init.zeros_(self.w2.weight)
        init.normal_(self.w2.bias, std=self.initializer_range)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Returns SiLU(w1 x): [B, T, rank]."""
        return F.silu(self.w1(x))


class DynamicConvolution(nn.Module):
    """A causal convolution on values whose kernels a generator makes from the block's input.

    Args:
        hidden_size: of the model.
        channels: D.
        taps: W.
        reduction: the generator's rank is D // reduction.
        initializer_range: standard deviation of the kernels at the start.
    """

    def __init__(self, hidden_size: int, channels: int, taps: int, reduction: int, initializer_range: float) -> None:
        super().__init__()
        self.taps = taps
        self.kernel_generator = KernelGenerator(hidden_size, channels // reduction, channels, taps, initializer_range)

    def pass_through(self) -> None:
        """Opens the current token's tap of freshly initialised kernels.

        The generator's first layer becomes random: while both its weights are zero neither has a gradient, and the
        convolution would stay static for ever. The second layer stays zero, so that it is static at first.
        """
        generator = self.kernel_generator
        generator.w2.bias.view(-1, self.taps)[:, -1] += 1
        generator.w1.weight.normal_(std=generator.initializer_range)

    def forward(
        self, v: torch.Tensor, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None
    ) -> torch.Tensor:
        """Convolves v [B, T, D] with kernels from the generator's hidden layer [B, T, rank], then SiLU.

        Carries v's last W rows.
        """
        generator = self.kernel_generator
        v, final = dynamic_conv(
            v,
            hidden,
            generator.w2.weight,
            generator.w2.bias,
            state=state.read("conv"),
            output_final_state=state.kept,
            cu_seqlens=cu_seqlens,
        )
        state.write("conv", final)
        return v


class JetBlock(GatedDeltaMixer):
    """Gated DeltaNet's time mixing with a dynamic convolution on values and none on queries and keys.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias; the released models have none.
        norm_eps: epsilon of the output norm; the released configurations write it as a string.
        conv_size: W, taps of the dynamic convolution, 2 to 8.
        dconv_generator_reduction: the kernel generator's rank is h · V // this.
        initializer_range: standard deviation of the kernels at the start.
        mode: a key of released configurations that says how their code computes; accepted and without effect, since
            the operators choose by length.
        dconv_implementation: the same, for their convolution; the backend is chosen by device here.

    Raises:
        UserError: `conv_size` or the generator's rank is out of range.
    """

    inherits_bias: ClassVar[bool] = False  # the released format has no place for them

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 2.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        conv_size: int = 4,
        dconv_generator_reduction: int = 8,
        initializer_range: float = 0.02,
        mode: str = "chunk",
        dconv_implementation: str = "triton",
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps)
        if not 2 <= conv_size <= 8:
            raise UserError(f"JetBlock needs conv_size from 2 to 8, not {conv_size}: correct the config.")
        if not 1 <= dconv_generator_reduction <= self.value_dim:
            raise UserError(
                f"JetBlock needs dconv_generator_reduction from 1 to {self.value_dim} (heads times value size), not "
                f"{dconv_generator_reduction}: correct the config."
            )
        self.add_decay()
        self.dynamic_conv1d = DynamicConvolution(
            hidden_size, self.value_dim, conv_size, dconv_generator_reduction, initializer_range
        )
        self.add_gate()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises the kernel generator, the decays and the output norm as the released code does."""
        self.dynamic_conv1d.kernel_generator.init_weights()
        super().init_weights()

    def after_inheriting(self) -> None:
        """Lets inherited values pass through the convolution and the heads remember."""
        self.dynamic_conv1d.pass_through()
        super().after_inheriting()

    def state_specs(self) -> dict[str, StateSpec]:
        """The recurrent state and the last inputs of the convolution."""
        return super().state_specs() | {"conv": StateSpec((self.value_dim, self.dynamic_conv1d.taps), None)}

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        if self._decodes_in_place(hidden, state, cu_seqlens):
            return self._decode(hidden, state)
        generator = self.dynamic_conv1d.kernel_generator
        q, k, v, gate, rank, a, b = project(
            hidden, [self.q_proj, self.k_proj, self.v_proj, self.g_proj, generator.w1, self.a_proj, self.b_proj]
        )
        v = self.split_heads(self.dynamic_conv1d(v, silu(rank), state, cu_seqlens))
        o = self.recur(self.split_heads(q), self.split_heads(k), v, a, b, state, cu_seqlens)
        return self.gated_output(o, gate)

    @staticmethod
    def _decodes_in_place(hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> bool:
        one_token = hidden.shape[1] == 1 and cu_seqlens is None and not torch.is_grad_enabled()
        return one_token and state.read("recurrent") is not None and state.read("conv") is not None

    def _decode(self, hidden: torch.Tensor, state: CarriedState) -> torch.Tensor:
        """One token a sequence, both states updated where they lie."""
        x = hidden[:, 0]
        conv_state, recurrent_state = state.read("conv"), state.read("recurrent")
        assert conv_state is not None and recurrent_state is not None
        generator = self.dynamic_conv1d.kernel_generator
        o = jet_decode_step(
            self.split_heads(self.q_proj(x)),
            self.split_heads(self.k_proj(x)),
            self.split_heads(self.v_proj(x)),
            self.split_heads(self.g_proj(x)),
            self.b_proj(x),
            self.a_proj(x),
            generator.w2(generator.hidden(x)).unflatten(-1, (self.value_dim, -1)),
            self.A_log,
            self.dt_bias,
            self.o_norm.weight,
            conv_state,
            recurrent_state,
            norm_eps=self.norm_eps,
        )
        return self.o_proj(o.flatten(1))[:, None]
