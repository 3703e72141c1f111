import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("jetlit.models", "load_teacher", "load_model"),
        ("jetlit.models", "hybridise", "hybridize"),
        ("jetlit.recipes", "TaughtFullTraining", "FullTraining with a teacher"),
        ("jetlit.recipes", "WarmupCosine", "jetlit.training.WarmupCosine"),
        ("jetlit.callbacks", "BackgroundCheckpointIO", "jetlit.training.BackgroundCheckpointIO"),
        ("jetlit.callbacks", "last_checkpoint", "jetlit.training.last_checkpoint"),
    ],
)
def test_an_old_name_says_the_new_one(module, old, new):
    with pytest.raises(ImportError, match=new):
        getattr(importlib.import_module(module), old)


def test_another_name_is_no_attribute():
    assert not hasattr(importlib.import_module("jetlit.models"), "never_there")
