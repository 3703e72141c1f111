"""An architecture: which block runs in which layer, and how each kind of block is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlit.blocks import BLOCKS, check_block_config
from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.models.mixers import ATTENTION_BLOCKS

if TYPE_CHECKING:
    from jetlit.models.configuration import JetNemotronConfig


@dataclass(frozen=True)
class Architecture:
    """The blocks of a hybrid, layer by layer.

    Attributes:
        layer_types: a block name for each layer.
        block_configs: arguments of each kind of block; what is left out comes from the teacher's attention.
    """

    layer_types: list[str]
    block_configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: JetNemotronConfig) -> Architecture:
        """Returns the architecture that a model configuration describes."""
        return cls(list(config.layer_types or ()), dict(config.efficient_attention_config or {}))

    @classmethod
    def uniform(
        cls, num_layers: int, full_layers: int, linear: str, config: dict[str, Any] | None = None
    ) -> Architecture:
        """Spreads full attention evenly: every (num_layers / full_layers)-th layer, as hand-made hybrids do.

        Args:
            num_layers: L.
            full_layers: layers that keep full attention.
            linear: the block of the others.
            config: that block's arguments.

        Raises:
            UserError: the budget is above the number of layers.
        """
        full = uniform_layers(full_layers, num_layers)
        layers = ["attn" if index in full else linear for index in range(num_layers)]
        return cls(layers, {linear: dict(config)} if config else {})

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Reads an architecture from JSON; keys beside its own (a search's scores) are ignored.

        Raises:
            UserError: the file is missing, not JSON, or not an architecture.
        """
        values = read_json(path)
        layers = values.get("layer_types") if isinstance(values, dict) else None
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            raise UserError(f"{path} is not an architecture: it needs a list of block names under layer_types.")
        return cls(layers, dict(values.get("block_configs") or {}))

    def save(self, path: str | Path) -> None:
        """Writes the architecture as JSON, atomically."""
        write_json(path, {"layer_types": self.layer_types, "block_configs": self.block_configs})

    def with_block(self, name: str, config: dict[str, Any] | None = None) -> Architecture:
        """Returns this placement with `name` in every layer that is not attention.

        Args:
            name: of a linear block.
            config: its arguments; the settings of the block it replaces are dropped.
        """
        layers = [layer if layer in ATTENTION_BLOCKS else name for layer in self.layer_types]
        kept = {block: dict(values) for block, values in self.block_configs.items() if block in ATTENTION_BLOCKS}
        return Architecture(layers, kept | ({name: dict(config)} if config else {}))

    def validate(self, config: JetNemotronConfig) -> None:
        """Checks that a model of this configuration can be given this architecture.

        Raises:
            UserError: an unknown block, a wrong number of layers, or an unknown block setting.
        """
        unknown = sorted(set(self.layer_types) - set(BLOCKS))
        if unknown:
            raise UserError(
                f"The architecture names {', '.join(map(repr, unknown))}, which nobody knows: use {', '.join(BLOCKS)}."
            )
        if len(self.layer_types) != config.num_hidden_layers:
            raise UserError(
                f"The architecture has {len(self.layer_types)} layers and the model {config.num_hidden_layers}: "
                "use the architecture that was searched for this model."
            )
        for name in sorted(set(self.layer_types)):
            check_block_config(name, self.block_configs.get(name, {}), partial=True)
        if "swa" in self.layer_types and "window_size" not in self.block_configs.get("swa", {}):
            raise UserError("The architecture has swa layers and no window: set block_configs.swa.window_size.")


def check_budget(budget: int, layers: int, option: str = "attn") -> None:
    """Check that `budget` of `layers` layers can take the block `option`.

    Raises:
        UserError: the budget is negative or above the number of layers.
    """
    if not 0 <= budget <= layers:
        raise UserError(
            f"A budget of {budget} {option!r} layers does not fit a model with {layers} layers to choose from: "
            f"choose 0 to {layers}."
        )


def uniform_layers(count: int, layers: int) -> tuple[int, ...]:
    """Return `count` layers, each in the middle of one of `count` equal parts of the depth (baseline of fig. 5b).

    Raises:
        UserError: `count` is not between 0 and `layers`.
    """
    check_budget(count, layers)
    return tuple((2 * part + 1) * layers // (2 * count) for part in range(count))
