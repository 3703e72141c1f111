"""Small models whose answers depend on their input: the usual 0.02 would make all tokens look alike."""

import torch

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM

WINDOW = 5
HYBRIDS = {
    "full": ["attn"] * 3,
    "hybrid": ["jet", "attn", "swa", "gla"],
    "all linear": ["jet", "gated_delta_net", "rwkv7"],
    "linear first": ["mamba2", "swa"],
}


def small_config(layer_types: list[str], **changes) -> JetNemotronConfig:
    settings = {
        "vocab_size": 61,
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_hidden_layers": len(layer_types),
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "initializer_range": 0.35,
        "layer_types": layer_types,
        "efficient_attention_config": {"swa": {"window_size": WINDOW}},
    }
    return JetNemotronConfig(**(settings | changes))


def small_model(layer_types: list[str], seed: int = 0, **changes) -> JetNemotronForCausalLM:
    torch.manual_seed(seed)
    return JetNemotronForCausalLM(small_config(layer_types, **changes)).eval()


def byte_teacher(layers: int, seed: int = 0) -> JetNemotronForCausalLM:
    """Full attention in every layer, over the byte tokenizer's tokens; the smallest that searches have choices in."""
    sizes = {"vocab_size": 259, "hidden_size": 12, "intermediate_size": 20}
    return small_model(["attn"] * layers, seed, **sizes, num_attention_heads=2, num_key_value_heads=1)


def prompts(batch: int = 2, length: int = 17, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 61, (batch, length), generator=torch.Generator().manual_seed(seed))
