"""A teacher family of your own: map its configuration to jetlit's, and compare logits with transformers."""

import torch
from transformers import MistralConfig, MistralForCausalLM

from jetlit.models import load_model
from jetlit.models.families import register_family, shared_keys


@register_family("mistral")
def mistral(config):
    """Return the keys of `JetNemotronConfig` for a Mistral configuration."""
    keys = shared_keys(config) | {"attention_bias": False}
    if config.sliding_window is None:
        return keys
    windows = {"swa": {"window_size": config.sliding_window}}
    return keys | {"layer_types": ["swa"] * config.num_hidden_layers, "efficient_attention_config": windows}


@torch.no_grad()
def main():
    """Compare the logits of a small random Mistral."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
    original = MistralForCausalLM(MistralConfig(vocab_size=97, num_hidden_layers=3, sliding_window=7, **sizes)).eval()
    ids = torch.randint(97, (2, 31))
    difference = (load_model(original)(ids).logits - original(ids).logits).abs().max()
    assert difference < 1e-5
    print(f"Largest difference of the logits: {difference:.1e}")


if __name__ == "__main__":
    main()
