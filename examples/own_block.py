"""A block of your own: define it, register it, and convert a small model into a hybrid with it."""

import torch
from jetlit_kernels import linear_attention
from transformers import Qwen2Config, Qwen2ForCausalLM

from jetlit.blocks import LinearMixer, register_block
from jetlit.models import Architecture, hybridize, load_model


@register_block("leaky")
class LeakyAttention(LinearMixer):
    """S ← sigmoid(leak) S + k ⊗ v, with a leak of each head that is learned and the same for every token."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.leak = torch.nn.Parameter(torch.linspace(2, 6, self.num_heads))

    def mix(self, hidden, state, cu_seqlens):
        """Mix [B, T, hidden], starting from the carried state."""
        q, k, v = self.heads(hidden)
        log_decay = torch.nn.functional.logsigmoid(self.leak).expand(*hidden.shape[:2], -1)
        o = state.recur(linear_attention, q, k, v, log_decay, cu_seqlens=cu_seqlens)
        return self.o_proj(o.flatten(2))


def main():
    """Convert a random Qwen2 and generate a few tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    teacher = load_model(Qwen2ForCausalLM(Qwen2Config(vocab_size=256, num_hidden_layers=4, **sizes)))
    hybrid = hybridize(teacher, Architecture(["attn", "leaky", "leaky", "attn"]))
    print(hybrid.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=8, do_sample=False).tolist())


if __name__ == "__main__":
    main()
