"""A small super network and tasks to score its subnetworks on."""

import pytest
from jetlit_data import load_tokenizer

from jetlit.models import SuperNetwork
from jetlit.tasks import build_task
from tests.models.small import byte_teacher

LAYERS = 6


@pytest.fixture(scope="module")
def supernet() -> SuperNetwork:
    return SuperNetwork(byte_teacher(LAYERS, seed=3), ("gla", "swa"), {"swa": {"window_size": 3}}).eval()


@pytest.fixture(scope="module")
def tasks() -> list:
    tokenizer = load_tokenizer("bytes")
    return [
        build_task({"kind": "recall", "documents": 5, "pairs": 3, "queries": 4}, tokenizer),
        build_task({"kind": "multiple_choice", "path": "python_code"}, tokenizer),
    ]
