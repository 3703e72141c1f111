"""transformers' own tests of a model, from its source distribution of the installed version."""

import importlib
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch

pytest.importorskip("parameterized", reason="make test-clients installs it")
SOURCES = Path(sys.prefix) / "transformers" / "tests"
if not SOURCES.is_dir():
    pytest.skip("needs transformers' source distribution: make test-clients", allow_module_level=True)

from transformers.models import auto  # noqa: E402

from jetlit.errors import UserError  # noqa: E402
from jetlit.models import JetNemotronForCausalLM, JetNemotronModel  # noqa: E402
from tests.models.small import small_config  # noqa: E402


def load_mixins() -> types.ModuleType:
    """Import transformers' tests/test_modeling_common.py.

    The distribution holds the files of tests/ alone. What they import from folders beside them (GenerationTesterMixin
    and tests of exporters) is empty here; tests/clients/test_generation.py has the modes of `generate`.
    """
    package = types.ModuleType("transformers_tests")
    package.__path__ = [str(SOURCES)]
    sys.modules["transformers_tests"] = package
    for folder, file, mixin in (
        ("exporters", "test_export", "ExportTesterMixin"),
        ("generation", "test_utils", "GenerationTesterMixin"),
    ):
        sys.modules[f"transformers_tests.{folder}"] = types.ModuleType(folder)
        module = types.ModuleType(file)
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[f"transformers_tests.{folder}.{file}"] = module
    return importlib.import_module("transformers_tests.test_modeling_common")


common = load_mixins()
LAYERS = ["jet", "attn", "swa", "gla"]


class HybridTester:
    """What the mixin asks of a model's tester: a small configuration and inputs."""

    is_training = True
    batch_size, seq_length, hidden_size, num_hidden_layers, num_attention_heads = 3, 9, 36, len(LAYERS), 6

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self):
        return small_config(
            LAYERS, initializer_range=0.1, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2
        )

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(3, 61, (self.batch_size, self.seq_length), generator=torch.Generator().manual_seed(0))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def get_values(mapping):
    """Return what transformers' own function does, and our decoder: without a head it has no loss to train on."""
    ours = ["JetNemotronModel"] if mapping is common.MODEL_MAPPING_NAMES else []
    return [*auto.get_values(mapping), *ours]


common.get_values = get_values


class TestHybrid(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (JetNemotronModel, JetNemotronForCausalLM)
    has_attentions = False  # linear layers have no attention weights to return

    def setUp(self):
        self.model_tester = HybridTester(self)

    @unittest.skip("Two layers, which this test asks for, are too few for a layer of each kind.")
    def test_num_layers_is_small(self):
        pass

    def test_model_weights_reload_no_missing_tied_weights(self):
        with pytest.raises(UserError, match="lacks tensors"):  # which transformers makes up, with a warning
            super().test_model_weights_reload_no_missing_tied_weights()
