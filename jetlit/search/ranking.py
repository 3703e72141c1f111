"""The baseline of one layer at a time: rank layers by what restoring their attention alone gains.

Li et al. ("Distilling to hybrid attention models", arXiv:2512.20569): the teacher's attention is put back into one
layer of a distilled model without attention, the model is trained briefly toward the teacher, and the layer is ranked
by the KL that is left. A placement of k layers is the k best of the ranking. Interaction of layers is not seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jetlit.models import Architecture
from jetlit.models.architecture import check_budget
from jetlit.search.beam import place
from jetlit.search.selection import Evaluate

RANKED_BY = "held_out_kl"


@dataclass(frozen=True)
class LayerRanking:
    """Layers in the order in which they should keep full attention.

    Attributes:
        order: Layers, 0-based, the most useful first.
        held_out_kl: KL of the model with the attention of layer 0, 1, … restored, in nats per token.
        tokens: Tokens of the restored models' trainings together.
    """

    order: tuple[int, ...]
    held_out_kl: tuple[float, ...]
    tokens: int

    def placement(self, budget: int, linear: str) -> Architecture:
        """Return the architecture whose `budget` best layers keep full attention."""
        check_budget(budget, len(self.order))
        base = (linear,) * len(self.order)
        return Architecture(list(place(base, self.order[:budget], "attn")))


def rank_layers(layers: int, linear: str, block_config: Mapping[str, Any], evaluate: Evaluate) -> LayerRanking:
    """Train a model with each layer's attention alone, and rank the layers by the KL that is left.

    All other layers hold the block `linear`. `evaluate` trains each model briefly from the distilled one; it gives
    "held_out_kl" and "tokens_seen".
    """
    configs = {linear: dict(block_config)} if block_config else {}
    base = (linear,) * layers
    found = evaluate({str(layer): Architecture(list(place(base, [layer], "attn")), configs) for layer in range(layers)})
    kl = tuple(float(metrics[RANKED_BY]) for metrics in found.values())
    tokens = sum(int(metrics["tokens_seen"]) for metrics in found.values())
    return LayerRanking(tuple(sorted(range(layers), key=lambda layer: (kl[layer], layer))), kl, tokens)
