"""What imports cost, and that transformers knows jetlit's classes whichever was imported first."""

import os
import subprocess
import sys

import pytest
import torch
from jetlit_data.tokenizer import ByteTokenizer

import jetlit
from tests.models.small import small_model

JETLIT_FIRST = """
import pickle, sys
import jetlit
assert not {"torch", "transformers"} & set(sys.modules), "import jetlit is light"
assert jetlit.__version__ and set(jetlit.__all__) <= set(dir(jetlit))
# This module of transformers imports its Auto classes in the middle of its own import.
import transformers.modeling_layers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
assert "jetlit.models" not in sys.modules
assert "jet_nemotron" in pickle.loads(pickle.dumps(CONFIG_MAPPING))
made = AutoConfig.for_model("jet_nemotron", num_hidden_layers=2)
assert type(made).__module__ == "jetlit.models.configuration"
"""
TRANSFORMERS_FIRST = """
import sys, time
import torch, transformers.generation, transformers.modeling_utils
from transformers import AutoModelForCausalLM, AutoTokenizer
begun = time.process_time()
import jetlit
assert "jetlit.models" not in sys.modules
import jetlit.models, jetlit_kernels
seconds = time.process_time() - begun
assert seconds < 2, f"{seconds} seconds"
"""
BOTH = """
model = AutoModelForCausalLM.from_pretrained("model")
assert type(model) is jetlit.models.JetNemotronForCausalLM and jetlit.load_model(model) is model
assert type(AutoTokenizer.from_pretrained("tokenizer")).__name__ == "ByteTokenizer"
heavy = {"litdata", "lightning", "boto3"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [JETLIT_FIRST, TRANSFORMERS_FIRST], ids=["jetlit first", "transformers first"])
def test_transformers_knows_jetlit_in_either_order_of_imports(order, tmp_path):
    small_model(["jet", "attn"]).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    ByteTokenizer().save_pretrained(tmp_path / "tokenizer")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = [sys.executable, "-c", order + BOTH]
    ended = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_name_that_jetlit_lacks_is_an_attribute_error():
    assert not hasattr(jetlit, "load_modle")
