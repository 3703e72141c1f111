"""Training the once-for-all super network that the placement search explores."""

from typing import Any

from torch import Tensor, nn

from jetlit.models import SuperNetwork, freeze_all_but_mixers
from jetlit.recipes.mixer_training import MixerTraining


class SuperNetworkTraining(MixerTraining):
    """Each step trains one random path through the layers' alternatives (paper, section 2, step 1).

    Every layer holds its full attention and the alternatives; embeddings, MLPs, norms and head stay as they are. All
    ranks train the same path.

    Args:
        teacher: see `TaughtRecipe`.
        alternatives: blocks that a layer may run in place of full attention.
        block_configs: constructor arguments by block name.
        train_attention: False leaves the full-attention paths as they are in the teacher.
        even_budgets: train paths of few and of many full-attention layers as often as those of half, see
            `SuperNetwork.sample_active_subnet`.
        feature_weight: see `MixerTraining`.
        kl_weight: see `MixerTraining`.
        kwargs: see `MixerTraining`.
    """

    def __init__(
        self,
        teacher: str,
        alternatives: list[str] | None = None,
        block_configs: dict[str, dict[str, Any]] | None = None,
        train_attention: bool = True,
        even_budgets: bool = False,
        feature_weight: float = 1.0,
        kl_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher, feature_weight, kl_weight, **kwargs)
        self.alternatives = tuple(alternatives or ("gla",))
        self.block_configs = block_configs
        self.train_attention = train_attention
        self.even_budgets = even_budgets

    def build(self) -> nn.Module:
        """The super network, only its token mixers trainable, all of it in float32."""
        network = SuperNetwork(self.load_frozen_teacher(), self.alternatives, self.block_configs).float()
        self.fit_to_teacher(network)
        freeze_all_but_mixers(network.causal_lm)
        if not self.train_attention:
            network.freeze_attention()
        return network

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Losses of this step's path."""
        generator = self.generator("path", self.global_step)
        path = self.model.sample_active_subnet(generator, self.even_budgets)
        while not self.train_attention and set(path) == {"attn"}:  # nothing in it would learn
            path = self.model.sample_active_subnet(generator, self.even_budgets)
        return super().losses(input_ids)

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Losses of a path that belongs to the batch's number, so that two validations compare the same paths."""
        self.model.sample_active_subnet(self.generator("held-out path", batch_idx), self.even_budgets)
        return super().held_out_losses(input_ids, batch_idx)
