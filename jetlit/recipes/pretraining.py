"""Pre-training of a small full-attention decoder, the teacher of the demo."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM
from jetlit.recipes.base import Recipe
from jetlit.values import Count, Layers, NonNegativeFloat, PositiveFloat, Seed


@dataclass
class DecoderShape:
    """A Qwen2-style decoder: grouped-query attention with biases, rotary positions, gated MLP, RMSNorm.

    The fields are named as in `transformers.Qwen2Config`.
    """

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    num_key_value_heads: Count
    max_position_embeddings: Count = 2048
    rope_theta: PositiveFloat = 10000.0
    initializer_range: NonNegativeFloat = 0.02
    tie_word_embeddings: bool = True


class Pretraining(Recipe):
    """Next-token training of a full-attention decoder from random weights.

    Args:
        decoder: The shape of the decoder.
        optimizer: Makes the optimizer from parameter groups.
        scheduler: Makes the learning-rate schedule, which advances once a step; None keeps the rate.
        seed: Seed of the initial weights. None takes that of `seed_everything`.
        chunk: Tokens whose logits are held at a time.
        activation_checkpointing: What the backward pass computes again: "mlp" (insides of MLPs), True (whole layers).
        compile: Compile norms, residuals, MLPs and attention's projections with torch.compile.
        reshard_after_forward: Under FSDP2, gather the weights of a layer for each pass instead of keeping them.
    """

    def __init__(
        self,
        decoder: DecoderShape,
        optimizer: OptimizerCallable = AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: Seed | None = None,
        chunk: Count = 1024,
        activation_checkpointing: bool | Literal["mlp"] = False,
        compile: bool = False,
        reshard_after_forward: bool = False,
    ) -> None:
        super().__init__(optimizer, scheduler, seed, chunk, activation_checkpointing, compile, reshard_after_forward)
        self.decoder = DecoderShape(**decoder) if isinstance(decoder, Mapping) else decoder

    def build(self) -> nn.Module:
        """Return a decoder with "attn" in every layer."""
        shape = asdict(self.decoder)
        rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
        layer_types = ["attn"] * self.decoder.num_hidden_layers
        return JetNemotronForCausalLM(JetNemotronConfig(**shape, rope_parameters=rope, layer_types=layer_types))

    def losses(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the cross entropy, as objective and as `loss`."""
        loss = self.next_token_loss(input_ids)
        return {"objective": loss, "loss": loss}

    def held_out_losses(self, input_ids: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the cross entropy, `loss`."""
        return {"loss": self.next_token_loss(input_ids)}
