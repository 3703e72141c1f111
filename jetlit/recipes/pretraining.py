"""Pre-training a small full-attention decoder, the teacher of the demo."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM
from jetlit.recipes.language_modelling import LanguageModelling


@dataclass
class DecoderShape:
    """A Qwen2-style decoder: grouped-query attention with biases, rotary positions, gated MLP, RMSNorm.

    Args:
        vocab_size: tokens.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads, shared by groups of query heads.
        max_position_embeddings: longest context meant.
        rope_theta: base of the rotary frequencies.
        initializer_range: standard deviation of the weights at the start.
        tie_word_embeddings: whether the head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True


class Pretraining(LanguageModelling):
    """Next-token training of a full-attention decoder from random weights.

    Args:
        decoder: its shape.
        kwargs: see `Recipe`.
    """

    def __init__(self, decoder: DecoderShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decoder = decoder

    def build(self) -> nn.Module:
        """A decoder with "attn" in every layer."""
        shape = asdict(self.decoder)
        rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
        layer_types = ["attn"] * self.decoder.num_hidden_layers
        return JetNemotronForCausalLM(JetNemotronConfig(**shape, rope_parameters=rope, layer_types=layer_types))
