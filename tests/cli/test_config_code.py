"""A config is data: whatever it names, and wherever, no function of its choice is called."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from jetlit.cli.fit import open_fit, run_fit
from jetlit.errors import UserError
from jetlit.pipeline.configs import load_config
from jetlit.pipeline.consolidate import ConsolidateConfig, consolidate
from jetlit.pipeline.evaluate import EvaluateConfig
from jetlit.training import last_checkpoint
from tests.recipes import tiny

HERE = __name__


def touch(*arguments, path: str = "", **rest):
    """Stand for an attacker's function: it is not in any list of dangerous modules."""
    Path(path).touch()


class Toucher:
    """An object that could be called, made by a constructor that acts."""

    def __init__(self, path: str):
        Path(path).touch()

    def __call__(self, *arguments):
        return None


class OwnOptimizer(SGD):
    """Anybody's subclass."""


def own_optimizer(parameters) -> AdamW:
    """Say what it returns."""
    return AdamW(parameters, lr=0.5)


def own_schedule(optimizer: Optimizer) -> LRScheduler:
    """Do the same for a schedule."""
    return StepLR(optimizer, 3)


class OwnCallback(Callback):
    """Anybody's callback."""


def attacks(path):
    """Names and arguments of functions and classes that would make a file."""
    yield {"class_path": "os.system", "init_args": {"command": f"touch {path}"}}
    yield {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", path]}}
    yield {"class_path": "subprocess.check_call", "init_args": {"args": ["touch", path]}}
    yield {"class_path": "pathlib.Path.touch", "init_args": {"self": path}}
    yield {"class_path": "builtins.exec", "init_args": {"source": f"open({path!r}, 'w')"}}
    yield {"class_path": "torch.serialization.os.system", "init_args": {"command": f"touch {path}"}}
    yield {"class_path": "torch.save", "init_args": {"obj": 1, "f": path}}
    yield {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": path, "model": "x", "source": "local"}}
    yield {"class_path": "functools.partial", "init_args": {"func": f"{HERE}.touch"}}
    yield {"class_path": f"{HERE}.touch", "init_args": {"path": path}}
    yield {"class_path": f"{HERE}.Toucher", "init_args": {"path": path}}


CALLBACK = "lightning.pytorch.callbacks.LambdaCallback"
PLACES = {
    "optimizer": lambda attack: {"model": {"init_args": {"optimizer": attack}}},
    "scheduler": lambda attack: {"model": {"init_args": {"scheduler": attack}}},
    "inside a schedule": lambda attack: {
        "model": {"init_args": {"scheduler": {"class_path": "LambdaLR", "init_args": {"lr_lambda": attack}}}}
    },
    "callback": lambda attack: {"trainer": {"callbacks": [attack]}},
    "inside a callback": lambda attack: {
        "trainer": {"callbacks": [{"class_path": CALLBACK, "init_args": {"on_fit_start": attack}}]}
    },
    "strategy": lambda attack: {
        "trainer": {"strategy": {"class_path": "DDPStrategy", "init_args": {"ddp_comm_hook": attack}}}
    },
    "profiler": lambda attack: {
        "trainer": {"profiler": {"class_path": "PyTorchProfiler", "dict_kwargs": {"on_trace_ready": attack}}}
    },
    "logger": lambda attack: {"trainer": {"logger": attack}},
    "plugins": lambda attack: {"trainer": {"plugins": [attack]}},
    "data": lambda attack: {"data": attack},
    "model": lambda attack: {"model": attack},
    "task": lambda attack: {"tasks": {"specs": [attack]}},
    "block": lambda attack: {"model": {"init_args": {"architecture": {"block_configs": {"gla": attack}}}}},
}


@pytest.mark.parametrize("place", ["optimizer", "scheduler"])
def test_an_optimizer_is_no_function(run_dir, tmp_path, place):
    commands = {attack["class_path"]: attack for attack in attacks(str(tmp_path / "made"))}
    for name in ("os.system", f"{HERE}.touch"):
        (tmp_path / "attack.yaml").write_text(json.dumps(PLACES[place](commands[name])))
        command = tiny.command(run_dir, "stage1", "--stage", "x", "--config", str(tmp_path / "attack.yaml"))
        for subcommand in ("fit", "validate"):
            with pytest.raises(UserError, match=f"model.{place} names {name}, which a config may not call"):
                run_fit([subcommand, *command[1:]])
    assert not (tmp_path / "made").exists()


@pytest.mark.attack
@pytest.mark.parametrize("place", PLACES)
def test_no_function_is_called(run_dir, tmp_path, place):
    made = tmp_path / "made"
    for number, attack in enumerate(attacks(str(made))):
        # A profiler's own options have no type: a name stays a text in them.
        for form in (attack, attack["class_path"])[: 1 if place == "profiler" else 2]:
            config = tmp_path / f"{number}.yaml"
            config.write_text(json.dumps(PLACES[place](form)))
            with pytest.raises(UserError) as refused:
                open_fit(tiny.command(run_dir, "stage1", "--stage", "x", "--config", str(config))[1:]).fit()
            assert not made.exists(), form
            assert "\n" not in str(refused.value)


def test_a_value_of_any_type_stays_data(tmp_path):
    attack = next(attacks(str(tmp_path / "made")))
    config = load_config(EvaluateConfig, {"tasks": [{"kind": attack, "x": [attack]}]}, "eval")
    assert config.tasks == [{"kind": attack, "x": [attack]}] and not (tmp_path / "made").exists()


def test_consolidate_of_somebodys_folder_runs_nothing(run_dir, tmp_path):
    config = run_dir / "teacher/config.yaml"
    text = config.read_text()
    assert "class_path: torch.optim.AdamW" in text
    config.write_text(text.replace("class_path: torch.optim.AdamW", f"class_path: {HERE}.Toucher"))
    with pytest.raises(UserError, match="Toucher"):
        consolidate(ConsolidateConfig(str(run_dir / "teacher"), str(tmp_path / "model")))


def test_classes_of_ones_own_and_functions_that_say_what_they_return_are_taken(run_dir):
    names = [f"--model.optimizer={HERE}.OwnOptimizer", f"--trainer.callbacks+={HERE}.OwnCallback"]
    recipe = open_fit([*tiny.command(run_dir, "stage1", *names, "--model.optimizer.lr", "0.1")[1:]]).model
    assert recipe.optimizer.func is not None
    names = [f"--model.optimizer={HERE}.own_optimizer", f"--model.scheduler={HERE}.own_schedule"]
    recipe = open_fit(tiny.command(run_dir, "stage1", *names)[1:]).model
    assert recipe.optimizer is own_optimizer and recipe.scheduler is own_schedule


class Bomb:
    """What unpickles to a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_consolidate_unpickles_no_code(run_dir, tmp_path):
    checkpoint = last_checkpoint(run_dir / "teacher/checkpoints")
    torch.save(torch.load(checkpoint) | {"callbacks": Bomb(tmp_path / "made")}, checkpoint)
    with pytest.raises(UserError, match="cannot be read"):
        consolidate(ConsolidateConfig(str(run_dir / "teacher"), str(tmp_path / "model")))
    assert not (tmp_path / "made").exists()
