"""An architecture: which block runs in which layer, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetlit.blocks import check_block_config, get_block, is_attention
from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.models.configuration import JetNemotronConfig


@dataclass(frozen=True)
class Architecture:
    """The blocks of a hybrid: each layer's, and arguments by block; the teacher's attention supplies those left out."""

    layer_types: list[str]
    block_configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: JetNemotronConfig) -> Architecture:
        """Return the architecture of a model configuration."""
        return cls(list(config.layer_types or ()), dict(config.efficient_attention_config or {}))

    @classmethod
    def uniform(
        cls, num_layers: int, full_layers: int, linear: str, config: dict[str, Any] | None = None
    ) -> Architecture:
        """Return `full_layers` layers of full attention among `linear` ones, spread as by `uniform_layers`.

        Raises:
            UserError: there are fewer layers than `full_layers`.
        """
        full = uniform_layers(full_layers, num_layers)
        layers = ["attn" if index in full else linear for index in range(num_layers)]
        return cls(layers, {linear: dict(config)} if config else {})

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture from a JSON file; other keys, such as a search's scores, are ignored.

        Raises:
            UserError: the file is missing, not JSON, or not an architecture.
        """
        values = read_json(path)
        layers = values.get("layer_types") if isinstance(values, dict) else None
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            raise UserError(f"{path} is not an architecture: it needs a list of block names under layer_types.")
        configs = values.get("block_configs") or {}
        if not isinstance(configs, dict) or not all(isinstance(config, dict) for config in configs.values()):
            raise UserError(f"{path} is not an architecture: block_configs holds a mapping of arguments by block.")
        return cls(layers, configs)

    def save(self, path: str | Path) -> None:
        """Write the architecture to a JSON file atomically."""
        write_json(path, {"layer_types": self.layer_types, "block_configs": self.block_configs})

    def with_block(self, name: str, config: dict[str, Any] | None = None) -> Architecture:
        """Return this placement with block `name` of these arguments in every layer that is not attention."""
        layers = [layer if is_attention(layer) else name for layer in self.layer_types]
        kept = {block: dict(values) for block, values in self.block_configs.items() if is_attention(block)}
        return Architecture(layers, kept | ({name: dict(config)} if config else {}))

    def validate(self, config: JetNemotronConfig) -> None:
        """Check that the architecture fits a model of this configuration.

        Raises:
            UserError: a block or a block's setting is unknown, or the number of layers differs.
        """
        for name in sorted(set(self.layer_types)):
            check_block_config(name, self.block_configs.get(name, {}), partial=True)
        if len(self.layer_types) != config.num_hidden_layers:
            raise UserError(
                f"The architecture has {len(self.layer_types)} layers and the model {config.num_hidden_layers}: "
                "use the architecture that was searched for this model."
            )
        for name in sorted(set(self.layer_types)):
            if get_block(name).mask_kind == "sliding" and "window_size" not in self.block_configs.get(name, {}):
                raise UserError(
                    f"The architecture has {name} layers and no window: set block_configs.{name}.window_size."
                )


def check_budget(budget: int, layers: int, option: str = "attn") -> None:
    """Check that `budget` of `layers` layers can take the block `option`.

    Raises:
        UserError: the budget is negative or above the number of layers.
    """
    if not 0 <= budget <= layers:
        raise UserError(
            f"A budget of {budget} {option!r} layers does not fit a model with {layers} layers to choose from: "
            f"set it between 0 and {layers}."
        )


def uniform_layers(count: int, layers: int) -> tuple[int, ...]:
    """Return `count` layers, each in the middle of one of `count` equal parts of the depth (baseline of fig. 5b).

    Raises:
        UserError: `count` is not between 0 and `layers`.
    """
    check_budget(count, layers)
    return tuple((2 * part + 1) * layers // (2 * count) for part in range(count))
