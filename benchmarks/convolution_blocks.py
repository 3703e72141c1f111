"""Blocks for one question: what is a convolution worth, on which of q, k and v, static or dynamic?

They stand here and not in `jetlit.blocks` because they serve this study alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jetlit_kernels import gated_delta_rule, log_decay_and_beta, silu
from torch import nn

from jetlit.blocks.base import CarriedState, LinearMixer, LinearSettings
from jetlit.blocks.gates import init_decay, no_weight_decay, spread_decay
from jetlit.blocks.jet import DynamicConvolution
from jetlit.blocks.projections import project
from jetlit.blocks.rms_norm import HeadRMSNorm
from jetlit.blocks.short_convolution import ShortConvolution

TAPS, REDUCTION, INITIALIZER_RANGE = 4, 8, 0.02
"""JetBlock's defaults."""


@dataclass(frozen=True)
class VariedSettings(LinearSettings):
    """Settings beside those of every linear block.

    Args:
        static: which of q, k and v have a static convolution, as in "qk".
        dynamic_v: whether v has JetBlock's dynamic convolution.
    """

    expand_v: float = 2.0
    static: str = ""
    dynamic_v: bool = False


class VariedConvolutions(LinearMixer):
    """JetBlock and Gated DeltaNet but for their convolutions, any of which may be present.

    Recurrence, decays, gate and norm are what those two share; SiLU follows on q, k and v with and without a
    convolution. With the dynamic one alone it is JetBlock, with all three static ones Gated DeltaNet.
    """

    Settings = VariedSettings
    settings: VariedSettings

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        hidden, static, dynamic_v = self.hidden_size, self.settings.static, self.settings.dynamic_v
        self.a_proj = nn.Linear(hidden, self.num_heads, bias=False)
        self.b_proj = nn.Linear(hidden, self.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        no_weight_decay(self, "A_log", "dt_bias")
        widths = {"q": self.key_dim, "k": self.key_dim, "v": self.value_dim}
        self.static_conv1d = nn.ModuleDict(
            {name: ShortConvolution(f"conv_{name}", widths[name], TAPS) for name in static}
        )
        self.dynamic_conv1d = (
            DynamicConvolution(hidden, self.value_dim, TAPS, REDUCTION, INITIALIZER_RANGE) if dynamic_v else None
        )
        self.g_proj = nn.Linear(hidden, self.value_dim, bias=False)
        self.o_norm = HeadRMSNorm(self.value_head_dim, self.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize convolutions, norm and decays as JetBlock and Gated DeltaNet do."""
        super().init_weights()
        init_decay(self.A_log, self.dt_bias)

    def after_inheriting(self) -> None:
        """Open the current token's taps and let the heads remember, as JetBlock and Gated DeltaNet do."""
        super().after_inheriting()
        spread_decay(self.A_log, self.dt_bias)

    def mix(self, hidden: torch.Tensor, state: CarriedState, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
        """See `LinearMixer.mix`."""
        layers = [self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj]
        if self.dynamic_conv1d is not None:
            layers.append(self.dynamic_conv1d.kernel_generator.w1)
        q, k, v, gate, a, b, *rank = project(hidden, layers)
        heads = {"q": q, "k": k, "v": v}
        for name, convolution in self.static_conv1d.items():
            heads[name] = convolution(heads[name], state, cu_seqlens)
        if self.dynamic_conv1d is None:
            v = silu(heads["v"])
        else:
            v = self.dynamic_conv1d(heads["v"], silu(*rank), state, cu_seqlens)
        q, k, v = (self.split_heads(x) for x in (heads["q"], heads["k"], v))
        g, beta = log_decay_and_beta(b, a, self.A_log, self.dt_bias)
        o = state.recur(gated_delta_rule, q, k, v, g, beta, cu_seqlens=cu_seqlens, qk_activation="silu")
        return self.o_proj(self.o_norm(o, gate))
