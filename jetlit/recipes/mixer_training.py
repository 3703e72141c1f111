"""What the super network and stage 1 share: token mixers that learn from a frozen teacher."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from jetlit.errors import UserError
from jetlit.models import JetNemotronForCausalLM, SuperNetwork, fit_outputs
from jetlit.recipes.teaching import TaughtRecipe


class MixerTraining(TaughtRecipe):
    """Token mixers trained towards a frozen teacher, by features and by logits.

    Logs `objective`, the weighted sum of `feature` and `kl` that is minimised, and in training those of the two with a
    weight; held out see `TaughtRecipe`.

    Args:
        teacher: see `TaughtRecipe`.
        feature_weight: of the feature error in the objective.
        kl_weight: of the KL in the objective.
        fit_tokens: how many tokens of the first training sequences, over all processes, the new linear blocks' output
            projections are fitted to before training (`jetlit.models.fit_outputs`), rounded up to whole sequences of
            each process; 0 leaves what they inherit.
        kwargs: see `TaughtRecipe`.

    Raises:
        UserError: both weights are zero, or one is negative.
    """

    def __init__(
        self, teacher: str, feature_weight: float, kl_weight: float, fit_tokens: int = 32_768, **kwargs: Any
    ) -> None:
        super().__init__(teacher, **kwargs)
        if min(feature_weight, kl_weight) < 0 or feature_weight + kl_weight == 0:
            raise UserError("feature_weight and kl_weight must not be negative, and one of them must be above zero.")
        self.feature_weight = feature_weight
        self.kl_weight = kl_weight
        self.fit_tokens = fit_tokens

    def fit_to_teacher(self, student: JetNemotronForCausalLM | SuperNetwork) -> None:
        """Fit new linear blocks' output projections, unless the weights come from a checkpoint anyway."""
        data: Any = self._trainer and self._trainer.datamodule  # type: ignore[attr-defined]
        if not self.fit_tokens or data is None or self._trainer.ckpt_path is not None:  # type: ignore[union-attr]
            return
        assert self.teacher is not None
        device = self.trainer.strategy.root_device
        nn.Module.to(student, device)  # transformers' own is not typed as a method
        self.teacher.to(device)
        fit_outputs(student, self.teacher.model.model, list(self._first_batches(data, device)))

    def _first_batches(self, data: LightningDataModule, device: torch.device) -> Iterator[Tensor]:
        """This process's first training sequences; the last batch is cut, so that the start has nothing of its size."""
        taken = 0
        for batch in data.train_dataloader():
            ids = batch["input_ids"]
            wanted = math.ceil(self.fit_tokens / self.trainer.world_size / ids.shape[1])
            yield ids[: wanted - taken].to(device)
            taken += len(ids)
            if taken >= wanted:
                return

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """The weighted terms and their sum."""
        losses = self.terms(input_ids, feature=self.feature_weight > 0, kl=self.kl_weight > 0)[1]
        weights = {"feature": self.feature_weight, "kl": self.kl_weight}
        objective = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"objective": objective, **losses}
