"""Blocks for one question: what is a convolution worth, on which of q, k and v, static or dynamic?

They stand here and not in `jetlit.blocks` since nobody trains with them in earnest.
"""

from __future__ import annotations

import torch
from jetlit_kernels import silu
from torch import nn

from jetlit.blocks.base import CarriedState, StateSpec
from jetlit.blocks.gated_delta import GatedDeltaMixer
from jetlit.blocks.jet import DynamicConvolution
from jetlit.blocks.projections import project
from jetlit.blocks.short_convolution import ShortConvolution

TAPS, REDUCTION, INITIALIZER_RANGE = 4, 8, 0.02
"""JetBlock's own by default."""


class VariedConvolutions(GatedDeltaMixer):
    """JetBlock and Gated DeltaNet but for their convolutions, of which any may be had.

    Recurrence, decays, gate and read-out are what those two share; SiLU follows on q, k and v with and without a
    convolution. With the dynamic one alone it is JetBlock, with all three static ones Gated DeltaNet.

    Args:
        hidden_size: of the model.
        num_heads: h.
        head_dim: K.
        expand_v: V = int(K · expand_v).
        qkv_bias: whether the projections of q, k and v have a bias.
        norm_eps: epsilon of the output norm.
        static: which of q, k and v have a static convolution, as in "qk".
        dynamic_v: whether v has JetBlock's dynamic convolution.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        expand_v: float = 2.0,
        qkv_bias: bool = False,
        norm_eps: float | str = 1e-5,
        static: str = "",
        dynamic_v: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, expand_v, qkv_bias, norm_eps)
        self.add_decay()
        widths = {"q": self.key_dim, "k": self.key_dim, "v": self.value_dim}
        self.static_conv1d = nn.ModuleDict({name: ShortConvolution(widths[name], TAPS) for name in static})
        self.dynamic_conv1d = (
            DynamicConvolution(hidden_size, self.value_dim, TAPS, REDUCTION, INITIALIZER_RANGE) if dynamic_v else None
        )
        self.add_gate()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises convolutions, decays and the output norm as JetBlock and Gated DeltaNet do."""
        for convolution in self.static_conv1d.values():
            convolution.init_weights()
        if self.dynamic_conv1d is not None:
            self.dynamic_conv1d.kernel_generator.init_weights()
        super().init_weights()

    def after_inheriting(self) -> None:
        """Opens the current token's taps and lets the heads remember, as JetBlock and Gated DeltaNet do."""
        for convolution in self.static_conv1d.values():
            convolution.pass_through()
        if self.dynamic_conv1d is not None:
            self.dynamic_conv1d.pass_through()
        super().after_inheriting()

    def state_specs(self) -> dict[str, StateSpec]:
        """The recurrent state and the last inputs of the convolutions that there are."""
        widths = {f"conv_{name}": len(convolution.weight) for name, convolution in self.static_conv1d.items()}
        if self.dynamic_conv1d is not None:
            widths["conv"] = self.value_dim
        return super().state_specs() | {name: StateSpec((width, TAPS), None) for name, width in widths.items()}

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        layers = [self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj]
        if self.dynamic_conv1d is not None:
            layers.append(self.dynamic_conv1d.kernel_generator.w1)
        q, k, v, gate, a, b, *rank = project(hidden, layers)
        heads = {"q": q, "k": k, "v": v}
        for name, convolution in self.static_conv1d.items():
            heads[name] = convolution.convolve(heads[name], state, f"conv_{name}", cu_seqlens)
        if self.dynamic_conv1d is None:
            v = silu(heads["v"])
        else:
            v = self.dynamic_conv1d(heads["v"], silu(*rank), state, cu_seqlens)
        q, k, v = (self.split_heads(x) for x in (heads["q"], heads["k"], v))
        return self.gated_output(self.recur(q, k, v, a, b, state, cu_seqlens), gate)
