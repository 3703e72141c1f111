"""Search where full attention stays, in plain Python: a teacher, its super network, tasks, a beam search."""

import torch
from jetlit_data import load_tokenizer

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM, SuperNetwork
from jetlit.search.evaluation import SubnetEvaluator
from jetlit.search.placement import search_placement
from jetlit.tasks import build_tasks

torch.manual_seed(0)
config = JetNemotronConfig(
    vocab_size=259,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=2,
)
teacher = JetNemotronForCausalLM(config)  # load_model("Qwen/Qwen3-0.6B-Base") for a trained one
supernet = SuperNetwork(teacher, alternatives=("gla",))  # SuperNetworkTraining trains its paths

tasks = build_tasks([{"kind": "recall", "documents": 8, "pairs": 4, "queries": 7}], load_tokenizer("bytes"))
score = SubnetEvaluator(supernet, tasks)  # any function of candidates to {task: objective} does
found = search_placement(
    score, layers=4, linear="gla", budget=2, width=4, weights={"recall": 1.0}, curve_budgets=[1, 2]
)

print("full attention in layers", list(found.full_attention))
print("layer by layer:", " ".join(found.choices))
for searched, uniform in zip(found.searched, found.uniform, strict=True):
    print(f"{searched.budget} full layers: searched {searched.value:.3f}, uniform {uniform.value:.3f}")
print(f"{score.counts.done} layer evaluations instead of {score.counts.naive}")
