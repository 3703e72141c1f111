"""The baseline of one layer at a time: rank layers by what restoring their attention alone gains.

Li et al. ("Distilling to hybrid attention models", arXiv:2512.20569): from a distilled model without attention, the
teacher's attention is put back into one layer, the model trained briefly towards the teacher, and the layer ranked by
the KL that is left. A placement of k layers is the k best of the ranking: one training a layer, and no interaction
between layers is seen.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit.models import Architecture
from jetlit.models.architecture import check_budget
from jetlit.search.beam import place
from jetlit.search.candidates import Metrics, Train
from jetlit.search.sharing import evaluate_together

JUDGE = "held_out_kl"


@dataclass(frozen=True)
class LayerRanking:
    """Layers in the order in which they should keep full attention.

    Attributes:
        order: layers, 0-based, the most useful first.
        held_out_kl: of the model with that layer's attention restored, from layer 0 on, nats per token.
        tokens: that all trainings took together, the one without attention not counted.
    """

    order: tuple[int, ...]
    held_out_kl: tuple[float, ...]
    tokens: int

    def placement(self, budget: int, linear: str) -> Architecture:
        """Returns the architecture whose `budget` best layers keep full attention."""
        check_budget(budget, len(self.order), "attn")
        base = (linear,) * len(self.order)
        return Architecture(list(place(base, self.order[:budget], "attn")))


def rank_layers(
    layers: int, linear: str, out_dir: Path, train: Train, settings: Mapping[str, Any], block_config: dict[str, Any]
) -> LayerRanking:
    """Trains a model with each layer's attention alone and ranks layers by the KL to the teacher that is left.

    Several processes may run this on one `out_dir` at the same time: they share the layers.

    Args:
        layers: of the model.
        linear: block of all other layers.
        out_dir: each layer has `out_dir/layers/NUMBER`; its weights are removed once it is measured.
        train: trains a candidate briefly from the distilled model without attention; gives "held_out_kl".
        settings: what training depends on beside the architecture, JSON values only.
        block_config: of the linear block.
    """
    blocks = {linear: block_config} if block_config else {}
    base = (linear,) * layers
    architectures = {str(layer): Architecture(list(place(base, [layer], "attn")), blocks) for layer in range(layers)}
    found = evaluate_together(architectures, out_dir, "layers", train, _forget, settings, judged_by=JUDGE)
    kl = tuple(float(found[name][JUDGE]["value"]) for name in architectures)
    tokens = sum(int(metrics["tokens_seen"]["value"]) for metrics in found.values())
    return LayerRanking(tuple(sorted(range(layers), key=lambda layer: (kl[layer], layer))), kl, tokens)


def _forget(model: Path) -> Metrics:
    """Removes the weights: the fit has measured the KL, and thirty models would fill a disk."""
    for folder in (model, model.parent / "checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)
    return {}
