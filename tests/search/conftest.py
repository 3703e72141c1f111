"""A small super network and tasks to score its subnetworks on."""

import pytest
import torch
from jetlit_data import load_tokenizer

from jetlit.models import JetNemotronConfig, JetNemotronForCausalLM, SuperNetwork
from jetlit.tasks import build_task

LAYERS = 6


@pytest.fixture(scope="module")
def supernet() -> SuperNetwork:
    torch.manual_seed(3)
    config = JetNemotronConfig(
        vocab_size=259,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.4,
        layer_types=["attn"] * LAYERS,
    )
    teacher = JetNemotronForCausalLM(config)
    return SuperNetwork(teacher, ("gla", "swa"), {"swa": {"window_size": 3}}).eval()


@pytest.fixture(scope="module")
def tasks() -> list:
    tokenizer = load_tokenizer("bytes")
    return [
        build_task({"kind": "recall", "documents": 5, "pairs": 3, "queries": 4}, tokenizer),
        build_task({"kind": "multiple_choice", "path": "python_code"}, tokenizer),
    ]
