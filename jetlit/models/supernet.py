"""The once-for-all super network: every layer holds its attention and alternatives, one of which is active."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from jetlit.blocks.base import MaskKind
from jetlit.errors import UserError
from jetlit.files import atomic_path, read_mapping, write_json
from jetlit.models.architecture import Architecture
from jetlit.models.assembly import assemble, empty_model, fill, replace_mixers
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.conversion import convert_mixer, hybrid_config
from jetlit.models.mixers import build_mixer
from jetlit.models.modeling import JetNemotronForCausalLM, JetNemotronModel

_CONFIG_FILE, _WEIGHTS_FILE = "supernet.json", "supernet.safetensors"


class SwitchableMixer(nn.Module):
    """Several token mixers of one layer, one of which runs: at first the first of `paths`, by block name."""

    def __init__(self, paths: dict[str, nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleDict(paths)
        self.active = next(iter(paths))

    @property
    def mask_kind(self) -> MaskKind:
        """The kind of mask that the active mixer needs."""
        return self.paths[self.active].mask_kind  # type: ignore[return-value]

    def forward(self, hidden_states: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Run the active mixer; see `TokenMixer.forward`."""
        return self.paths[self.active](hidden_states, **inputs)


class SuperNetwork(nn.Module):
    """A teacher whose layers each offer their attention and other blocks (paper section 2.2, figure 3).

    Args:
        teacher: a full-attention model, which does not change.
        alternatives: blocks offered beside "attn" in every layer; "swa" needs a window in `block_configs`.
        block_configs: arguments by block name; the teacher's attention supplies those left out.

    Raises:
        UserError: an alternative is unknown or set up wrongly, or the teacher is not all attention.
    """

    def __init__(
        self,
        teacher: JetNemotronForCausalLM,
        alternatives: Sequence[str] = ("gla",),
        block_configs: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        alternatives = [name for name in alternatives if name != "attn"]
        if not alternatives:
            raise UserError("A super network needs at least one alternative to attention: name a block such as 'gla'.")
        config = _supernet_config(teacher.config, alternatives, block_configs or {})

        def mixer(index: int) -> nn.Module:
            return SwitchableMixer({name: convert_mixer(teacher, index, name, config) for name in self.choices})

        self.choices = ("attn", *alternatives)
        self.causal_lm = assemble(config, teacher, mixer)

    @property
    def model(self) -> JetNemotronModel:
        """The decoder, whose layers run their active path."""
        return self.causal_lm.model

    @property
    def lm_head(self) -> nn.Linear:
        """The language model head."""
        return self.causal_lm.lm_head

    @property
    def config(self) -> JetNemotronConfig:
        """The configuration: attention in every layer, and the settings of all alternatives."""
        return self.causal_lm.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the active subnetwork; see `JetNemotronForCausalLM.forward`."""
        return self.causal_lm(*args, **kwargs)

    @property
    def choices_per_layer(self) -> list[tuple[str, ...]]:
        """The blocks offered in each layer."""
        return [self.choices] * len(self.model.layers)

    def sample_active_subnet(self, generator: torch.Generator | None = None, even_budgets: bool = False) -> list[str]:
        """Activate a random path and return it.

        Args:
            generator: generator on the CPU; the same state gives the same path.
            even_budgets: first draw the share of full attention uniformly from 0 to 1, then each layer with it.
                Otherwise each layer is drawn uniformly, and paths of a deep network hardly ever have few
                full-attention layers: with 30 layers, one path in 2.3 million has two or fewer.
        """
        layers = len(self.model.layers)
        options = self.choices[1:] if even_budgets else self.choices
        drawn = torch.randint(len(options), (layers,), generator=generator).tolist()
        path = [options[index] for index in drawn]
        if even_budgets:
            full = torch.rand(layers, generator=generator) < torch.rand((), generator=generator)
            path = ["attn" if kept else name for kept, name in zip(full.tolist(), path, strict=True)]
        self.set_active_subnet(path)
        return path

    def set_active_subnet(self, choices: Iterable[str]) -> None:
        """Activate a block in each layer.

        Raises:
            UserError: the number of layers is wrong, or a layer does not offer its block.
        """
        for mixer, name in zip(self._mixers(), self._checked(choices), strict=True):
            mixer.active = name

    def get_active_subnet(self) -> list[str]:
        """Return the active block of each layer."""
        return self.model.layer_types

    def freeze_attention(self) -> None:
        """Exclude the full-attention paths from training."""
        for mixer in self._mixers():
            mixer.paths["attn"].requires_grad_(False)

    def extract(self, choices: Iterable[str]) -> JetNemotronForCausalLM:
        """Return a separate model with copies of the chosen blocks and of everything they share."""
        path = self._checked(choices)
        block_configs = {name: self.config.block_config(name) for name in self.choices[1:]}
        config = hybrid_config(self.config, Architecture(path, block_configs))
        mixers = self._mixers()
        return assemble(config, self.causal_lm, lambda index: copy.deepcopy(mixers[index].paths[path[index]]))

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights (safetensors) and, last, configuration; `state_dict` replaces weights that are sharded."""
        folder = Path(folder)
        weights = self.state_dict() if state_dict is None else state_dict
        tensors = {name.removeprefix("causal_lm."): tensor.detach().contiguous() for name, tensor in weights.items()}
        if self.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        with atomic_path(folder / _WEIGHTS_FILE) as path:
            save_file(tensors, path, metadata={"format": "pt"})
        write_json(folder / _CONFIG_FILE, {"alternatives": self.choices[1:], "config": self.config.to_diff_dict()})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SuperNetwork:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: the folder holds no super network, or a damaged one.
        """
        folder = Path(folder)
        values = read_mapping(folder / _CONFIG_FILE, "alternatives", "config")
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network.choices = ("attn", *values["alternatives"])
        config = JetNemotronConfig.from_dict(values["config"])
        network.causal_lm = empty_model(config)

        def mixer(index: int) -> nn.Module:
            return SwitchableMixer({name: build_mixer(config, name) for name in network.choices})

        with torch.device("meta"):
            replace_mixers(network.causal_lm, mixer)
        try:
            tensors = load_file(folder / _WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder / _WEIGHTS_FILE} cannot be read ({error}): train the super network again."
            ) from None
        fill(network.causal_lm, tensors, str(folder))
        return network

    @staticmethod
    def written(folder: str | Path) -> int:
        """Return when the weights in a folder were written, in nanoseconds."""
        return (Path(folder) / _WEIGHTS_FILE).stat().st_mtime_ns

    def _mixers(self) -> list[SwitchableMixer]:
        return [cast(SwitchableMixer, layer.self_attn) for layer in self.model.layers]

    def _checked(self, choices: Iterable[str]) -> list[str]:
        path = list(choices)
        if len(path) != len(self.model.layers):
            raise UserError(
                f"The super network has {len(self.model.layers)} layers, not {len(path)}: choose one block each."
            )
        unknown = sorted(set(path) - set(self.choices))
        if unknown:
            raise UserError(
                f"The super network does not offer {', '.join(map(repr, unknown))}: choose {', '.join(self.choices)}."
            )
        return path


def _supernet_config(
    config: JetNemotronConfig, alternatives: list[str], block_configs: dict[str, dict[str, Any]]
) -> JetNemotronConfig:
    """Return a configuration with attention in every layer and complete settings of every alternative."""
    full = hybrid_config(config, Architecture(["attn"] * config.num_hidden_layers))
    settings: dict[str, dict[str, Any]] = {}
    for name in alternatives:
        architecture = Architecture([name] * config.num_hidden_layers, {name: block_configs.get(name, {})})
        settings[name] = hybrid_config(config, architecture).block_config(name)
    full.efficient_attention_config = settings
    return full
