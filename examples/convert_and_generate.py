"""Convert a full-attention model to a hybrid, save it, load it with transformers, and generate with the engine.

The teacher here is a tiny random Qwen2; give `load_model` the folder or hub name of a Llama, Qwen2 or Qwen3 instead.
"""

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

import jetlit
from jetlit.models.export import export

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
Qwen2ForCausalLM(Qwen2Config(vocab_size=256, num_hidden_layers=4, **sizes)).save_pretrained("teacher")

teacher = jetlit.load_model("teacher")
architecture = jetlit.Architecture(["jet", "attn", "jet", "jet"])  # one layer keeps its attention
hybrid = jetlit.hybridize(teacher, architecture)  # new blocks start from the teacher's projections
export(hybrid, None, "hybrid")  # config.json and safetensors; pass a tokenizer to write it too

model = AutoModelForCausalLM.from_pretrained("hybrid").eval()
engine = jetlit.GenerationEngine(model, max_batch=2, max_context=64)
prompts = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
print(engine.generate(prompts, max_new_tokens=16).tolist())
