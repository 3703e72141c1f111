"""Parameter counts from shapes alone: models are built on the meta device, where nothing is allocated."""

from __future__ import annotations

import torch

from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.modeling import JetNemotronForCausalLM


def count_parameters(config: JetNemotronConfig) -> int:
    """Return the number of a model's parameters; a tied embedding counts once.

    Args:
        config: the model's configuration. Nothing of the model's size is allocated.
    """
    with torch.device("meta"):
        model = JetNemotronForCausalLM(config)
    return sum(parameter.numel() for parameter in model.parameters())
