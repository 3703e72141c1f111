"""Models of known behavior: one that sees the future, one with random weights."""

import torch
from torch import nn

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM

VOCABULARY = 259


class _Decoder(nn.Module):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, input_ids, use_cache=False):
        following = torch.roll(input_ids, -1, dims=1)
        hidden = nn.functional.one_hot((following + self.shift) % VOCABULARY, VOCABULARY).float()
        return type("Output", (), {"last_hidden_state": hidden})()


class Oracle(nn.Module):
    """Predicts the token that comes next (or, with a shift, always another one) with logit `certainty`."""

    def __init__(self, certainty: float = 20.0, shift: int = 0) -> None:
        super().__init__()
        self.model = _Decoder(shift)
        self.lm_head = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        nn.init.eye_(self.lm_head.weight)
        self.lm_head.weight.data *= certainty


def random_model(layer_types=("attn", "gla"), seed=0) -> JetNemotronForCausalLM:
    torch.manual_seed(seed)
    config = JetNemotronConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=len(layer_types),
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=list(layer_types),
        efficient_attention_config={"gla": {"num_heads": 2, "head_dim": 8, "expand_v": 2.0}},
        initializer_range=0.3,
    )
    return JetNemotronForCausalLM(config).eval()
