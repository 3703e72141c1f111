"""Next-token training, whatever the model."""

from torch import Tensor

from jetlit.recipes.recipe import Recipe


class LanguageModelling(Recipe):
    """A recipe whose objective is the next-token loss."""

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Cross entropy, as objective and as `loss`."""
        loss = self.next_token_loss(input_ids)
        return {"objective": loss, "loss": loss}

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Cross entropy, `loss`."""
        return {"loss": self.next_token_loss(input_ids)}
