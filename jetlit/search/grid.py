"""The grid of the hardware-aware search: shapes of one constant state size (paper, section 2.5 and table 2)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetlit.errors import UserError
from jetlit.models import JetNemotronConfig


@dataclass(frozen=True)
class GridRow:
    """A shape of a linear block: d_K and d_V of a head, heads, and the kernel size of its convolution if it has one."""

    key_dim: int
    value_dim: int
    heads: int
    conv_size: int | None = None

    @property
    def state_size(self) -> int:
        """Numbers in a layer's recurrent state: d_K · d_V · heads."""
        return self.key_dim * self.value_dim * self.heads

    @property
    def name(self) -> str:
        """A short name, fit for a folder."""
        conv = "" if self.conv_size is None else f"_c{self.conv_size}"
        return f"k{self.key_dim}_v{self.value_dim}_h{self.heads}{conv}"

    def block_config(self) -> dict[str, Any]:
        """Return the block's arguments that this row sets."""
        config: dict[str, Any] = {
            "num_heads": self.heads,
            "head_dim": self.key_dim,
            "expand_v": self.value_dim / self.key_dim,
        }
        return config if self.conv_size is None else config | {"conv_size": self.conv_size}


PAPER_GRID = (
    GridRow(256, 288, 4),
    GridRow(192, 384, 4),
    GridRow(128, 576, 4),
    GridRow(256, 144, 8),
    GridRow(192, 192, 8),
    GridRow(128, 288, 8),
    GridRow(128, 192, 12),
    GridRow(96, 256, 12),
    GridRow(64, 384, 12),
)
"""Table 2 of the paper (Jet-Nemotron, arXiv:2508.15884)."""

PAPER_BILLIONS = (1.62, 1.64, 1.70, 1.66, 1.70, 1.74, 1.78, 1.84, 1.98)
"""Parameters of its rows as the paper prints them. The fourth is not what its shapes give (1.69): from the first row to
the fourth the keys grow by 1,024 channels, from the second to the fifth by 768, yet the printed growth is 0.04 against
0.06. The other eight are exact."""


def grid_config(row: GridRow, **overrides: Any) -> JetNemotronConfig:
    """Return the model of a row of table 2: Qwen2.5-1.5B with 24 Gated DeltaNet and 4 attention layers.

    The linear layers have no biases. The attention layers are those of the released 2B.

    Args:
        row: The shape.
        **overrides: Other keys of the configuration.
    """
    attention_layers = {14, 19, 20, 21}
    return JetNemotronConfig(
        layer_types=["attn" if layer in attention_layers else "gated_delta_net" for layer in range(28)],
        efficient_attention_config={"gated_delta_net": row.block_config() | {"qkv_bias": False}},
        **overrides,
    )


def state_size_rows(
    state_size: int,
    key_dims: Sequence[int],
    value_dims: Sequence[int],
    heads: Sequence[int],
    conv_sizes: Sequence[int | None] = (None,),
    tolerance: float = 0.0,
) -> list[GridRow]:
    """Return the rows of a grid that have a state size, ordered by heads, then d_K falling, as in table 2.

    Args:
        state_size: d_K · d_V · heads of a layer.
        key_dims: Values of d_K to try.
        value_dims: Values of d_V to try.
        heads: Numbers of heads to try.
        conv_sizes: Kernel sizes to try.
        tolerance: Relative deviation from `state_size` that still counts as equal; 0.02 is 2%.

    Raises:
        UserError: A number is out of range, or no row has that state size.
    """
    if min(state_size, *key_dims, *value_dims, *heads) < 1 or tolerance < 0:
        raise UserError("State size, d_K, d_V and heads must be positive and the tolerance not negative: correct them.")
    grid = [GridRow(*row) for row in itertools.product(key_dims, value_dims, heads, conv_sizes)]
    rows = {row for row in grid if abs(row.state_size - state_size) <= tolerance * state_size}
    if not rows:
        nearest = min(grid, key=lambda row: (abs(row.state_size - state_size), row.name))
        raise UserError(
            f"No row of the grid has a state size of {state_size} within {tolerance:.1%}; the nearest is "
            f"{nearest.state_size} (d_K {nearest.key_dim}, d_V {nearest.value_dim}, {nearest.heads} heads): change "
            f"state_size or the lists, or allow a tolerance."
        )
    return sorted(rows, key=lambda row: (row.heads, -row.key_dim, row.value_dim, row.conv_size or 0))
