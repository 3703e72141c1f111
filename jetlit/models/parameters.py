"""Parameter counts from shapes alone: models are built on the meta device, where nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.modeling import JetNemotronForCausalLM


def count_parameters(config: JetNemotronConfig) -> int:
    """Counts a model's parameters; a tied embedding counts once.

    Args:
        config: of the model; nothing of its size is allocated.

    Returns:
        The number of parameters.
    """
    with torch.device("meta"):
        model = JetNemotronForCausalLM(config)
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class GridRow:
    """One row of the paper's hardware-aware grid (Jet-Nemotron, arXiv:2508.15884, table 2).

    Attributes:
        key_dim: d_K of a head.
        value_dim: d_V of a head.
        heads: number of heads.
        billions: parameters as the paper prints them, in billions. The fourth row's 1.66 is not what its shapes give
            (1.69): from the first row to the fourth the keys grow by 1,024 channels, from the second to the fifth by
            768, yet the printed growth is 0.04 against 0.06. The other eight are exact.
    """

    key_dim: int
    value_dim: int
    heads: int
    billions: float


PAPER_GRID = (
    GridRow(256, 288, 4, 1.62),
    GridRow(192, 384, 4, 1.64),
    GridRow(128, 576, 4, 1.70),
    GridRow(256, 144, 8, 1.66),
    GridRow(192, 192, 8, 1.70),
    GridRow(128, 288, 8, 1.74),
    GridRow(128, 192, 12, 1.78),
    GridRow(96, 256, 12, 1.84),
    GridRow(64, 384, 12, 1.98),
)


def grid_config(key_dim: int, value_dim: int, heads: int, **overrides: Any) -> JetNemotronConfig:
    """Returns the model of a row of table 2: Qwen2.5-1.5B with 24 Gated DeltaNet and 4 attention layers.

    The linear layers have no biases. Which layers keep attention does not change the count; those of the released 2B
    are taken.

    Args:
        key_dim: d_K of a head.
        value_dim: d_V of a head.
        heads: number of heads.
        **overrides: other keys of the configuration.
    """
    attention_layers = {14, 19, 20, 21}
    block = {"num_heads": heads, "head_dim": key_dim, "expand_v": value_dim / key_dim, "qkv_bias": False}
    return JetNemotronConfig(
        layer_types=["attn" if layer in attention_layers else "gated_delta_net" for layer in range(28)],
        efficient_attention_config={"gated_delta_net": block},
        **overrides,
    )
